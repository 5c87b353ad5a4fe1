"""Numbers that a network looks up in a table, tokens: data with others is refused before anything is computed."""

from __future__ import annotations

import numpy as np
from torch import fx

from isobit.pipeline.errors import InputError
from isobit.pipeline.graph.nodes import get_attribute, op_name
from isobit.pipeline.graph.ports import input_names, input_nodes
from isobit.pipeline.samples.arrays import Arrays
from isobit.pipeline.samples.data import Batches


def check_lookups(graph: fx.GraphModule, batches: Batches) -> None:
    """Look at integers that an embedding reads as they are given; of floats and of computed numbers nothing is known.

    Args:
        batches: its inputs in the order of the graph's.

    Raises:
        InputError: a number is outside the table; names the input, the sample, the number and what is allowed.
    """
    if not isinstance(batches.samples, Arrays):
        return
    columns = batches.samples.inputs.values()
    for node, name, array in zip(input_nodes(graph), input_names(graph), columns, strict=False):
        sizes = [_rows(graph, reader, node) for reader in node.users]
        rows = min((size for size in sizes if size is not None), default=None)
        for index in batches.order if rows is not None and np.issubdtype(array.dtype, np.integer) else ():
            wrong = array[index][(array[index] < 0) | (array[index] >= rows)]
            if wrong.size:
                raise InputError(
                    f"input '{name}' has the number {wrong.flat[0]} in sample {index}, which the network looks up in a "
                    f"table of {rows} rows", where=str(batches.path), allowed=f"0 to {(rows or 0) - 1}",
                    field="calibration" if batches.purpose == "calib" else "evaluation",
                )


def _rows(graph: fx.GraphModule, reader: fx.Node, numbers: fx.Node) -> int | None:
    """How many rows the table has in which `reader` looks `numbers` up; None where it does something else."""
    if op_name(reader) != "embedding" or reader.args[1] is not numbers:
        return None
    table = reader.args[0]
    return len(get_attribute(graph, table)) if isinstance(table, fx.Node) and table.op == "get_attr" else None
