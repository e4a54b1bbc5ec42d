"""The search form of the message list."""

from django import forms
from django.core.exceptions import ValidationError

from portal import cursors, senders
from portal.cursors import CursorError, Position
from portal.queries import MessageQuery
from portal.senders import NumberError


class SearchForm(forms.Form):
    """Find a sender's messages. Always posted: the number is personal data, and URLs end up in logs and histories."""

    sender = forms.CharField(
        label="Sender's number",
        max_length=64,
        error_messages={"required": "Write the sender's full number, for example +49 1520 0000000."},
        widget=forms.TextInput(
            attrs={"type": "tel", "autocomplete": "off", "spellcheck": "false", "placeholder": "+49 1520 0000000"}
        ),
    )
    cursor = forms.CharField(required=False, max_length=256, widget=forms.HiddenInput)

    def clean_sender(self) -> str:
        try:
            return senders.normalise(self.cleaned_data["sender"])
        except NumberError as error:
            raise ValidationError(str(error), code="bad_number") from None

    def clean_cursor(self) -> Position | None:
        text = self.cleaned_data["cursor"]
        try:
            return cursors.read(text) if text else None
        except CursorError:
            raise ValidationError(
                "This page of results is not valid any more. Search again.", code="bad_cursor"
            ) from None

    def query(self) -> MessageQuery:
        """Return what the valid form asks for."""
        return MessageQuery(sender=self.cleaned_data["sender"], cursor=self.cleaned_data["cursor"])
