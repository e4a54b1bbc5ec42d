"""Dead letters: why an envelope can never be delivered, in words for people, and what workers report of them."""

import re
from typing import NamedTuple

# What one report lists at most; its total counts them all.
MAX_REPORTED = 1000
# Lower case only: databases differ in whether A and a are the same id.
ID = re.compile(r"^[0-9a-z-]{1,64}\Z")
# By which a queue's reports are known: 16 random bytes that lie beside it.
SECRET = re.compile(r"^[0-9a-f]{32}\Z")
CODE = re.compile(r"^[0-9a-z_]{1,64}\Z")
# 2100-01-01: milliseconds, where seconds are meant, are not taken for the year 58000.
LAST = 4_102_444_800

MALFORMED_ENTRY = "malformed_entry"
OTHER = "other"


class Reason(NamedTuple):
    """`words` say what happened, `remedy` what an operator does about it."""

    words: str
    remedy: str


REASONS = {
    "malformed_envelope": Reason(
        "The registry cannot read the envelope's header.",
        "Compare the versions of ingest and registry. Update the registry and requeue it; a damaged one: drop it.",
    ),
    "bad_signature": Reason(
        "The signature does not fit: the envelope was changed after ingest signed it.",
        "Find out who can write to Redis. It cannot be repaired: drop it and ask the client to send again.",
    ),
    "bad_seal": Reason(
        "The registry's key of that number does not open it.",
        "Is secrets/sealing.json of the registry another one than ingest sealed to? Restore it, then requeue.",
    ),
    "unknown_signer": Reason(
        "No ingest certificate of this registry's CA, valid at that time, signed it.",
        "Restored an old database? Bring the certificate's row back, then requeue. Otherwise drop it.",
    ),
    "signer_revoked": Reason(
        "The certificate of the ingest that signed it is revoked.",
        "After a stolen key nobody can tell it from a forgery: drop it and ask the clients to send again.",
    ),
    "bad_content": Reason(
        "It opens, but its messages are not ones the registry can store.",
        "Compare the versions of ingest and registry. Update the registry and requeue it.",
    ),
    MALFORMED_ENTRY: Reason(
        "What stood in the queue is no message of ours, so no worker could take it.",
        "Find out who writes to Redis besides ingest. It cannot be requeued: drop it.",
    ),
}
_UNKNOWN = Reason(
    "The registry rejected it for a reason this version does not know.",
    "Look the code up in the registry's log and documentation.",
)


def explain(code: str) -> Reason:
    return REASONS.get(code, _UNKNOWN)
