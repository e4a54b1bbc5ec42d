@echo off
rem Issue a client's certificate: writes CN.crt, CN.key and ca.crt into the certificate folder.
rem   generate_cert.bat CN [options]    the options are those of: manage.py issue_cert --help
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
py "%ROOT%\manage.py" issue_cert --role client %*
exit /b %ERRORLEVEL%

:venv
"%PYTHON%" "%ROOT%\manage.py" issue_cert --role client %*
exit /b %ERRORLEVEL%

:usage
echo Usage: generate_cert.bat CN [options] 1>&2
echo Issue a client's certificate: writes CN.crt, CN.key and ca.crt into the certificate folder. 1>&2
echo Options are those of: manage.py issue_cert --help 1>&2
exit /b 2
