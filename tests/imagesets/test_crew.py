"""Work in several processes."""

import os
import threading

from blockwise_lora.imagesets import crew

BAD = {20, 190}


def _squares(numbers):
    if not BAD.isdisjoint(numbers):
        os._exit(1)  # as a decoder that crashes
    return [number**2 for number in numbers]


def test_items_that_end_their_process_are_lost_alone():
    results = list(crew.one_by_one(_squares, range(200), -1, workers=2))
    assert results == [-1 if number in BAD else number**2 for number in range(200)]


def test_nothing_is_forked_beside_other_threads():
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert crew._context().get_start_method() == "spawn"
    finally:
        done.set()
        thread.join()
