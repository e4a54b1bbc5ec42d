"""What belongs to a run, in a form that cannot be changed unnoticed."""

import hashlib
import hmac
from array import array
from collections.abc import Mapping

from registry.keyring import ring
from registry.search import postings

_PURPOSE = "search:manifest"


def digest(run: int, segment: int, key_id: int, members: "array[int]", lists: "Mapping[bytes, array[int]]") -> bytes:
    """Return HMAC-SHA256, under the index key of this purpose, of

        run u32 | segment u32 | members | token | list | token | list …

    in the order of the tokens (32 bytes each), members and lists in the plain form of registry.search.postings.
    """
    code = hmac.new(ring().index_key(_PURPOSE, key_id), digestmod=hashlib.sha256)
    code.update(run.to_bytes(4) + segment.to_bytes(4) + postings.encode(members, len(members)))
    for token in sorted(lists):
        code.update(token + postings.encode(lists[token], len(members)))
    return code.digest()
