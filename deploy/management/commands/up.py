import os
import shlex
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from deploy import demo, home, machine, stopping, valkey
from deploy.supervisor import Child, Supervisor, taken


class Command(BaseCommand):
    help = (
        "Run the whole system on this machine: makes what is missing, starts every process, sends one message through "
        "all of it, and keeps it running until Ctrl-C."
    )
    # Half of what the checks look at is made by this command.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        # --home and --port-offset take effect in manage.py, before the settings are read.
        parser.add_argument("--home", metavar="DIR", help="folder for all state (default: MSGSYS_HOME, or var)")
        parser.add_argument("--port-offset", type=int, default=0, metavar="N", help="add N to every port")
        parser.add_argument("--no-demo", action="store_true", help="do not send the demo message")
        parser.add_argument(
            "--ready-file", type=Path, metavar="FILE", help="write URLs, paths, login and pids here (JSON)"
        )

    def handle(self, **options: Any) -> None:
        self.stop = threading.Event()
        stopping.heed()
        stop_signals = [signal.SIGINT, signal.SIGTERM]
        if sys.platform == "win32":
            # Ctrl-Break, and the closed window.
            stop_signals.append(signal.SIGBREAK)
        for number in stop_signals:
            signal.signal(number, lambda *_: self.stop.set())
        if options["ready_file"]:
            options["ready_file"].unlink(missing_ok=True)
        embedded = not os.environ.get("REDIS_URL")
        self._check_ports(embedded)
        try:
            self.administrator = home.prepare(lambda line: self.say(f"  {line}"))
        except home.HalfMade as error:
            raise CommandError(f"{settings.HOME} is half made: {error}") from None
        except home.Unusable as error:
            raise CommandError(str(error)) from None
        self.ready_file: Path | None = options["ready_file"]
        self.changes = 0
        self.supervisor = Supervisor(self.say, self._changed)
        try:
            self._start(embedded)
            if not self.stop.is_set():
                if not options["no_demo"]:
                    self._demo()
                self._tell()
            while not self.stop.wait(0.2):
                self.supervisor.check()
        finally:
            self._stop()

    def say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()

    def _stop(self) -> None:
        self.say("Stopping ...")
        still = self.supervisor.stop(machine.STOP_ORDER)
        if still:
            self.say(f"These could not be stopped: {', '.join(f'{child.name} (pid {child.pid})' for child in still)}")
        else:
            self.say("Stopped. Nothing is lost: what was queued is delivered at the next start.")

    def _check_ports(self, embedded: bool) -> None:
        ports = machine.all_ports(embedded_valkey=embedded)
        busy = taken(ports)
        # With others busy too, somebody serves the roles by hand, and uses this Valkey.
        if list(busy) == ["valkey"] and settings.REDIS_PASSWORD and valkey.stop_leftover():
            self.say("  stopped the Valkey that an earlier start left behind")
            busy = taken(ports)
        if busy:
            named = ", ".join(f"{port} ({name})" for name, port in busy.items())
            raise CommandError(f"Ports are taken: {named}. Stop what uses them, or choose others: --port-offset 100")
        elsewhere = valkey.left_elsewhere() if embedded else 0
        if elsewhere:
            raise CommandError(
                f"A Valkey of this home still runs on port {elsewhere}, left behind by an earlier start. "
                "Start once with the port offset of then, or stop it: two would spoil the queue's file."
            )

    def _start(self, embedded: bool) -> None:
        logs = settings.HOME / "logs"
        self.say("Starting valkey, registry, ingest, worker, jobs, portal ..." if embedded else "Starting ...")
        try:
            if embedded:
                self.supervisor.start([machine.valkey_child(logs)])
        except valkey.NoServer as error:
            raise CommandError(str(error)) from None
        self.supervisor.start(machine.role_children(logs))
        missing = machine.wait_ready(lambda: self.stop.is_set() or bool(self._dead()))
        if self.stop.is_set():
            return
        for child in self._dead():
            raise CommandError(f"{child.name} stopped at its start. Its last words:\n{child.last_words()}")
        if missing:
            raise CommandError(f"not ready after {machine.READY_WITHIN:.0f} s: {', '.join(missing)}. Logs: {logs}")
        self._write_ready_file()

    def _dead(self) -> list[Child]:
        return [child for child in self.supervisor.children if not child.running()]

    def _changed(self) -> None:
        """Wait for restarted children in the background: the supervisor must go on watching."""
        self.changes += 1
        threading.Thread(target=self._ready_again, args=(self.changes,), name="ready again", daemon=True).start()

    def _ready_again(self, change: int) -> None:
        def outdated() -> bool:
            # After a further restart, the thread of that one speaks and writes: never two at once.
            return self.supervisor.stopping or self.changes != change

        missing = machine.wait_ready(outdated)
        if not missing and not outdated():
            self.say("Everything is ready again.")
            self._write_ready_file()

    def _write_ready_file(self) -> None:
        if self.ready_file:
            machine.write_ready_file(self.ready_file, self.supervisor.children, self.administrator)

    def _demo(self) -> None:
        try:
            delivered = demo.run(self.administrator)
        except demo.DemoFailed as error:
            raise CommandError(f"The demo message did not come through: {error}") from None
        self.say(f"\nOne message went all the way in {delivered.seconds:.2f} s:")
        if delivered.shown is None:
            self.say(f"  {delivered.uid} is registered (the administrator's password was changed: not read back)")
            return
        for name in ("id", "client", "sender_number", "message_body", "received_at", "status"):
            self.say(f"  {name:14} {delivered.shown[name]}")

    def _tell(self) -> None:
        folder = settings.CERTIFICATES_DIR
        ca, certificate, key = map(_quoted, (settings.CA_FILE, folder / "demo.crt", folder / "demo.key"))
        self.say(
            f"\nPortal   {machine.base_url('portal')}/   (your browser does not know this CA yet: {settings.CA_FILE})"
            f"\nLogin    {self._login()}"
            f"\nSubmit   curl --cacert {ca} --cert {certificate} --key {key} \\"
            f"\n              -H 'Content-Type: application/json' \\"
            f'\n              -d \'{{"sender_number": "{demo.SENDER}", "message_body": "Hello"}}\' \\'
            f"\n              {machine.base_url('ingest')}/submit"
            f"\nLogs     {settings.HOME / 'logs'}"
            "\nReady. Ctrl-C stops everything."
        )

    def _login(self) -> str:
        administrator = self.administrator
        if administrator.generated:
            return f"{administrator.user} / {administrator.password}  (shown this once, kept in {administrator.kept})"
        if administrator.kept:
            return f"{administrator.user}  (password: {administrator.kept})"
        return f"{administrator.user}  (with the password that was chosen since)"


def _quoted(path: Path) -> str:
    """Return the path as one pastes it into this system's shell."""
    return f'"{path}"' if sys.platform == "win32" else shlex.quote(str(path))
