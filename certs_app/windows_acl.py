"""Who may read a file on Windows: its access control list, as SDDL (Microsoft, [MS-DTYP] §2.5.1).

What `chmod 600` is elsewhere: a protected list, which inherits nothing, with the owner, the system and the
administrators in it.
"""

import re
import sys
from collections.abc import Iterator

PRIVATE = "D:P(A;;FA;;;OW)(A;;FA;;;SY)(A;;FA;;;BA)"
# Owner rights, the system, the administrators, the creating owner: as names, and as SIDs.
_TRUSTED = frozenset({"OW", "SY", "BA", "CO", "S-1-3-4", "S-1-5-18", "S-1-5-32-544", "S-1-3-0"})
# (type;flags;rights;object;inherited object;trustee…). Types that begin with D deny.
_ACE = re.compile(r"\((?P<type>[A-Z]*);[^;()]*;[^;()]*;[^;()]*;[^;()]*;(?P<trustee>[^;()]+)[^()]*(?:\([^()]*\))*\)")
_OWNER = re.compile(r"^O:(?P<owner>[A-Z]{2}(?=[GDS]:|$)|S-[\d-]+)")


def strangers(sddl: str) -> Iterator[str]:
    """Yield those whom a file's list lets in, besides its owner, the system and the administrators.

    A file without a list lets everybody in.
    """
    _, found, acl = sddl.partition("D:")
    if not found or acl.startswith("NO_ACCESS_CONTROL"):
        yield "everybody"
        return
    owner = _OWNER.match(sddl)
    trusted = _TRUSTED | ({owner["owner"]} if owner else set())
    for entry in _ACE.finditer(acl.partition("S:(")[0]):
        if not entry["type"].startswith("D") and entry["trustee"] not in trusted:
            yield entry["trustee"]


if sys.platform == "win32":
    import ctypes
    import msvcrt
    from ctypes import wintypes

    _advapi, _kernel = ctypes.WinDLL("advapi32", use_last_error=True), ctypes.WinDLL("kernel32")
    _kernel.LocalFree.argtypes = [wintypes.LPVOID]
    _FILE, _OWNER_AND_ACL, _REVISION = 1, 1 | 4, 1
    _PROTECTED_ACL = 0x80000004

    def of_descriptor(descriptor: int) -> str:
        """Return the SDDL of an open file: its owner and its list. Raises OSError."""
        security, text = wintypes.LPVOID(), wintypes.LPWSTR()
        handle = wintypes.HANDLE(msvcrt.get_osfhandle(descriptor))
        error = _advapi.GetSecurityInfo(handle, _FILE, _OWNER_AND_ACL, None, None, None, None, ctypes.byref(security))
        if error:
            raise ctypes.WinError(error)
        try:
            if not _advapi.ConvertSecurityDescriptorToStringSecurityDescriptorW(
                security, _REVISION, _OWNER_AND_ACL, ctypes.byref(text), None
            ):
                raise ctypes.WinError(ctypes.get_last_error())
            return text.value or ""
        finally:
            _kernel.LocalFree(text)
            _kernel.LocalFree(security)

    def restrict(path: str) -> None:
        """Let nobody in but the owner, the system and the administrators. Raises OSError."""
        security = wintypes.LPVOID()
        if not _advapi.ConvertStringSecurityDescriptorToSecurityDescriptorW(
            PRIVATE, _REVISION, ctypes.byref(security), None
        ):
            raise ctypes.WinError(ctypes.get_last_error())
        try:
            if not _advapi.SetFileSecurityW(path, _PROTECTED_ACL, security):
                raise ctypes.WinError(ctypes.get_last_error())
        finally:
            _kernel.LocalFree(security)
