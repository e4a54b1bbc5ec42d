"""A sender's number as people write it, to E.164 as it is stored."""

import phonenumbers


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
        raise NumberError("This number has too few or too many digits for its country. Check it and search again.")
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
