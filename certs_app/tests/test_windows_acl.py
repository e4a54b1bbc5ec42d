"""Who else is let in by an access control list of Windows, read as it writes them."""

import sys

import pytest

from certs_app import windows_acl
from certs_app.files import UnsafeFile, read_secret, write_secret

ALICE, BOB = "S-1-5-21-1004336348-1177238915-682003330-512", "S-1-5-21-1004336348-1177238915-682003330-513"


@pytest.mark.parametrize(
    ("sddl", "others"),
    [
        (windows_acl.PRIVATE, []),
        (f"O:{ALICE}G:DUD:PAI(A;;FA;;;{ALICE})(A;;FA;;;SY)(A;;FA;;;BA)", []),
        (f"O:BAD:P(A;;FA;;;SY)(A;;FA;;;BA)(D;;FA;;;{BOB})", []),
        (f"O:{ALICE}D:P(A;;FA;;;{ALICE})(A;;FR;;;{BOB})", [BOB]),
        (f"O:{ALICE}D:AI(A;ID;FA;;;SY)(A;ID;FA;;;BA)(A;ID;0x1200a9;;;BU)", ["BU"]),
        (f"O:{ALICE}D:P(A;;FR;;;WD)(A;;FR;;;AU)", ["WD", "AU"]),
        (f'O:{ALICE}D:P(XA;;FX;;;{BOB};(@User.Title=="PM"))', [BOB]),
        (f"O:{ALICE}D:NO_ACCESS_CONTROL", ["everybody"]),
        (f"O:{ALICE}G:DU", ["everybody"]),
        (f"O:{ALICE}D:P", []),
        (f"O:{ALICE}D:P(A;;FA;;;SY)S:(AU;SAFA;FA;;;WD)", []),
    ],
)
def test_strangers_are_found(sddl, others):
    assert list(windows_acl.strangers(sddl)) == others


@pytest.mark.skipif(sys.platform != "win32", reason="asks Windows")
def test_a_secret_is_private_and_one_that_is_not_is_refused(tmp_path):
    file = tmp_path / "secret"
    write_secret(file, b"x")
    assert read_secret(file) == b"x"
    inherits = tmp_path / "inherits"
    inherits.write_bytes(b"x")
    if list(windows_acl.strangers(windows_acl.of_descriptor(inherits.open("rb").fileno()))):
        with pytest.raises(UnsafeFile, match="can be read by"):
            read_secret(inherits)
