"""A sender's number as people write it, to E.164 as it is stored."""

import re

import phonenumbers

_SPACING = re.compile(r"[\s()/.-]")
_START = re.compile(r"\+[1-9][0-9]{0,14}", re.ASCII)
END_DIGITS = 4


class NumberError(ValueError):
    """The text is no full phone number. The message says what to write, and never repeats the text."""


def normalise(text: str) -> str:
    """Turn "+49 1520 000-0000" into "+4915200000000". Raises NumberError.

    Only the length is checked against the numbering plan: a number that was valid when it was stored stays findable.
    """
    try:
        number = phonenumbers.parse(text)
    except phonenumbers.NumberParseException:
        raise NumberError("Write the full number with + and the country code, for example +49 1520 0000000.") from None
    if phonenumbers.is_possible_number_with_reason(number) != phonenumbers.ValidationResult.IS_POSSIBLE:
        raise NumberError("This number has too few or too many digits for its country. Check it and try again.")
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def normalise_start(text: str) -> str:
    """Turn "+49 152" into "+49152": a country's code and what follows. Raises NumberError."""
    digits = _SPACING.sub("", text)
    if not _START.fullmatch(digits):
        raise NumberError("Write + and the first digits of the number, for example +49 152.")
    return digits


def normalise_end(text: str) -> str:
    """Check the last four digits of a number. Raises NumberError."""
    digits = _SPACING.sub("", text)
    if len(digits) != END_DIGITS or not digits.isascii() or not digits.isdigit():
        raise NumberError("Write exactly the last 4 digits of the number, for example 0000.")
    return digits


def is_in(number: str, text: str) -> bool:
    """Tell whether a text has this E.164 number in it, with or without the country's code, however it is spaced."""
    national = str(phonenumbers.parse(number).national_number)
    return national in re.sub(r"\D", "", text)
