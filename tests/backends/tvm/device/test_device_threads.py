"""How many threads TVM's pool takes: the number that was asked for, in the thread that asks, and one without a pool."""

import os

import pytest

from isobit.backends.tvm.device.device_threads import BIND, COUNT, WAIT, use_threads
from tests.backends.tvm import harness

pytestmark = pytest.mark.tvm


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """What `use_threads` sets is taken back."""
    harness.needs_tvm()
    import tvm  # noqa: F401 (loads the runtime)

    for name in (COUNT, BIND, WAIT):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def used():
    import tvm_ffi

    return tvm_ffi.get_global_func("runtime.NumThreads")()


def test_a_thread_takes_the_number_that_it_asked_for_last():
    def ask():
        return [(use_threads(count), used())[1] for count in (7, 2, 3, 1)]

    assert harness.in_a_thread_of_its_own(ask) == [7, 2, 3, 1]


def test_a_pool_does_not_grow():
    with pytest.raises(ValueError, match="modules run on 2 threads here, not on 3: .* largest number first"):
        harness.in_a_thread_of_its_own(lambda: (use_threads(2), use_threads(3)))


def test_one_thread_makes_no_pool():
    def ask():
        before = len(os.listdir("/proc/self/task"))
        use_threads(1)
        use_threads(2)
        return len(os.listdir("/proc/self/task")) - before

    assert harness.in_a_thread_of_its_own(ask) == 1  # the second of two; a pool made for one could not have grown


def test_another_thread_takes_the_number_given_last():
    use_threads(1)
    assert os.environ[COUNT] == "1" and harness.in_a_thread_of_its_own(used) == 1


def test_where_threads_run_and_how_long_they_wait_is_the_users(monkeypatch):
    monkeypatch.setenv(BIND, "1")
    use_threads(1)
    assert os.environ[BIND] == "1" and int(os.environ[WAIT]) > 0
