# `make up` runs the system, `make test` proves it, `make chaos` tries to break it, `make bench` measures it. ARGS="..." is passed on.
PYTHON ?= python3
VENV := .venv

.PHONY: up test chaos bench clean-venv

up: $(VENV)/installed
	@$(VENV)/bin/python manage.py up $(ARGS)

test:
	@$(PYTHON) tests/run.py $(ARGS)

chaos: $(VENV)/installed
	@$(VENV)/bin/python -m tests.chaos $(ARGS)

bench: $(VENV)/installed-dev
	@$(VENV)/bin/python -m bench $(ARGS)

$(VENV)/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "msgsys needs Python 3.11 or newer; set PYTHON=...")'
	@$(PYTHON) -m venv $(VENV) || (echo "On Debian: apt install python3-venv" && false)
	@echo "Installing the pinned requirements into $(VENV) ..."
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

clean-venv:
	rm -rf $(VENV) .venv-*
