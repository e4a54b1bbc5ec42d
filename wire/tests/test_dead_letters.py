from pathlib import Path

import wire
from wire.dead_letters import CODE, REASONS, explain

DOCUMENT = Path(wire.__file__).parent.parent / "docs" / "dead-letters.md"


def test_the_document_has_every_code_with_its_words_and_no_other():
    rows = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    written = [row for row in rows if row.split("`")[1] in REASONS]
    assert written == [f"| `{code}` | {reason.words} | {reason.remedy} |" for code, reason in REASONS.items()]


def test_a_code_of_a_newer_registry_has_words_too():
    reason = explain("moon_phase")
    assert "does not know" in reason.words
    assert reason.remedy


def test_every_code_is_one_that_a_report_may_carry():
    assert all(CODE.match(code) for code in REASONS)
