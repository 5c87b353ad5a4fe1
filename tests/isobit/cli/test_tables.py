"""Tables: columns aligned in a pipe, nothing cut, no control characters of ours."""

import io

from isobit.cli.tables import Row, show_table
from isobit.cli.terminal import open_console


def test_columns_are_aligned_in_plain_text():
    stream = io.StringIO()
    show_table(open_console(stream), [Row(("a", "[bold]x")), Row(("longer", "y"), marked=True)], ("name", "what"))
    assert stream.getvalue() == "name    what\na       [bold]x\nlonger  y\n"


def test_a_table_without_rows_is_its_header():
    stream = io.StringIO()
    show_table(open_console(stream), [], ("name", "what"))
    assert stream.getvalue() == "name  what\n"
