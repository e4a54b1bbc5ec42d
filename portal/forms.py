"""The search form of the message list."""

from typing import Any

from django import forms
from django.core.exceptions import ValidationError

from portal import cursors
from portal.cursors import CursorError, Position
from portal.queries import MessageQuery
from portal.wording import MAX_CHARACTERS, Wording, WordingError
from registry import senders
from registry.senders import NumberError

# Typed by one person about another: no browser is to remember or to correct it.
_PRIVATE = {"autocomplete": "off", "spellcheck": "false"}
_NO_NUMBER = (
    "Write the sender's full number, its last 4 digits, or its start and a *: +49 1520 0000000, 0000 or +49 15*."
)


class SearchForm(forms.Form):
    """Find messages by their sender or their words. Always posted: both are personal data, and URLs end up in logs."""

    sender = forms.CharField(
        label="Sender's number",
        required=False,
        max_length=64,
        widget=forms.TextInput(attrs={"type": "tel", "placeholder": "+49 1520…, 0000, +49 15*", **_PRIVATE}),
    )
    words = forms.CharField(
        label="Words",
        required=False,
        max_length=MAX_CHARACTERS,
        widget=forms.TextInput(attrs={"type": "search", "placeholder": 'pump "failed again"', **_PRIVATE}),
    )
    cursor = forms.CharField(required=False, max_length=256, widget=forms.HiddenInput)

    def clean_sender(self) -> dict[str, str]:
        """Return the one of MessageQuery's fields that is meant: sender, last4 or prefix."""
        text = self.cleaned_data["sender"].strip()
        try:
            return _number(text) if text else {}
        except NumberError as error:
            raise ValidationError(str(error), code="bad_number") from None

    def clean_words(self) -> Wording | None:
        text = self.cleaned_data["words"]
        try:
            return Wording.of(text) if text else None
        except WordingError as error:
            raise ValidationError(str(error), code="bad_words") from None

    def clean_cursor(self) -> Position | None:
        text = self.cleaned_data["cursor"]
        try:
            return cursors.read(text) if text else None
        except CursorError:
            raise ValidationError(
                "This page of results is not valid any more. Search again.", code="bad_cursor"
            ) from None

    def clean(self) -> dict[str, Any]:
        if not self.errors and not self.cleaned_data["sender"] and not self.cleaned_data["words"]:
            self.add_error("sender", ValidationError(f"Nothing to look for. {_NO_NUMBER}", code="required"))
        return self.cleaned_data

    def query(self) -> MessageQuery:
        """Return what the valid form asks for."""
        given = self.cleaned_data
        return MessageQuery(**given["sender"], words=given["words"], cursor=given["cursor"])


def _number(text: str) -> dict[str, str]:
    if text.endswith("*"):
        return {"prefix": senders.normalise_start(text[:-1])}
    if text.isascii() and text.isdigit() and len(text) <= senders.END_DIGITS:
        return {"last4": senders.normalise_end(text)}
    return {"sender": senders.normalise(text)}
