/* What Rust's standard library asks for random numbers; Wine 8 lacks it. RtlGenRandom goes by the name SystemFunction036. */
#include <windows.h>

BOOLEAN NTAPI SystemFunction036(PVOID, ULONG);

__declspec(dllexport) BOOL WINAPI ProcessPrng(PBYTE data, SIZE_T size) { return SystemFunction036(data, (ULONG)size); }
