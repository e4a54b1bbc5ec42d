# Two commands: `make up` runs the system, `make test` proves it. ARGS="..." is passed on.
PYTHON ?= python3
VENV := .venv

.PHONY: up test clean-venv

up: $(VENV)/installed
	@$(VENV)/bin/python manage.py up $(ARGS)

test:
	@$(PYTHON) tests/run.py $(ARGS)

$(VENV)/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "msgsys needs Python 3.11 or newer; set PYTHON=...")'
	@$(PYTHON) -m venv $(VENV) || (echo "On Debian: apt install python3-venv" && false)
	@echo "Installing the pinned requirements into $(VENV) ..."
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

clean-venv:
	rm -rf $(VENV) .venv-*
