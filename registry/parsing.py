"""Request bodies: strict JSON (RFC 8259), in UTF-8 and nothing else."""

from typing import IO, Any

import msgspec
from django.conf import settings
from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser

from wire.problems import Problem


class StrictJSON(JSONParser):
    """Refuse what DRF's own parser lets through: lone surrogates, any codec named as charset, bottomless nesting."""

    def parse(self, stream: IO[Any], media_type: str | None = None, parser_context: Any = None) -> Any:
        body = stream.read(settings.MAX_BODY_BYTES + 1)
        # Our own server refuses this earlier; behind a terminator nobody else does.
        if len(body) > settings.MAX_BODY_BYTES:
            raise Problem("too_large", f"A request has at most {settings.MAX_BODY_BYTES} bytes.")
        try:
            return msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise ParseError("The body is not valid JSON in UTF-8.") from None
