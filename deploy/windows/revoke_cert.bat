@echo off
rem Revoke the live certificates of a name, or the one of a serial number. There is no way back.
rem   revoke_cert.bat CN [options]    the options are those of: manage.py revoke_cert --help
setlocal DisableDelayedExpansion
if "%~1"=="" goto usage
if "%~1"=="/?" goto usage

rem This file lies two folders below manage.py, whatever folder it is called from.
set "ROOT=%~dp0..\.."
set "PYTHON=%ROOT%\.venv\Scripts\python.exe"
rem Names and messages are UTF-8; the console's own code page could not write them all.
set "PYTHONUTF8=1"

rem No brackets around what follows: a bracket in an argument would end them.
if exist "%PYTHON%" goto venv
py "%ROOT%\manage.py" revoke_cert %*
exit /b %ERRORLEVEL%

:venv
"%PYTHON%" "%ROOT%\manage.py" revoke_cert %*
exit /b %ERRORLEVEL%

:usage
echo Usage: revoke_cert.bat CN [options] 1>&2
echo Revoke the live certificates of a name, or the one of a serial number. There is no way back. 1>&2
echo Options are those of: manage.py revoke_cert --help 1>&2
exit /b 2
