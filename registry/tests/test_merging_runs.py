"""A search looks into every run of a segment, so a full segment ends with one."""

from django.utils import timezone

from registry.models import Run
from registry.search import building
from registry.search.models import SEGMENT_ROWS
from registry.tests.conftest import a_row, keep


def index(*row_ids):
    """Store messages under these ids and index what waits; return how many runs each segment has then."""
    rows = [a_row() for _ in row_ids]
    for row, row_id in zip(rows, row_ids, strict=True):
        row.pk = row_id
    keep(*rows)
    building.index_new(timezone.now())
    segments = list(Run.objects.order_by("segment").values_list("segment", flat=True))
    return {segment: segments.count(segment) for segment in segments}


def test_the_newest_segment_keeps_its_runs(db):
    index(1)
    assert index(2) == {0: 2}


def test_a_segment_whose_end_comes_with_the_next_ones_beginning_becomes_one_run(db):
    index(SEGMENT_ROWS - 2)
    assert index(SEGMENT_ROWS - 1, SEGMENT_ROWS, SEGMENT_ROWS + 1) == {0: 1, 1: 1}


def test_a_segment_that_was_full_before_the_next_one_began_becomes_one_run(db):
    index(SEGMENT_ROWS - 2)
    index(SEGMENT_ROWS - 1)
    assert index(2 * SEGMENT_ROWS) == {0: 1, 2: 1}


def test_a_late_message_of_an_old_segment_is_merged_at_once(db):
    index(1)
    index(SEGMENT_ROWS)
    assert index(2) == {0: 1, 1: 1}
