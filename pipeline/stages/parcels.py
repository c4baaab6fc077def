"""Tables packed into single cells, so that Ray repeats a task block by block as it was.

Ray Data cuts what a task yields into blocks by their size, hands each on at once, and, when the task's worker or node
dies, runs the task again and takes the blocks that it has not passed on yet *by their number*. If the second attempt
is cut elsewhere, because an alpha compresses to another size or an image became an error, rows are lost and doubled
without a word (measured: 12 of 40 rows lost in Ray 2.60). A table in one cell can't be cut: with
:data:`BLOCK_BYTES` of 1, every parcel is a block, and block ``n`` of a task holds the same images in every attempt.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

PARCELS = pa.schema([("parcel", pa.large_binary())])
"""One parcel per row: a table as an Arrow IPC stream."""

BLOCK_BYTES = 1
"""``DataContext.target_max_block_size`` for stages that yield parcels: every row becomes a block of its own."""


def pack(table: pa.Table) -> pa.Table:
    """Return a table of one row (:data:`PARCELS`) that holds all of ``table``, schema and all."""
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table)
    content = stream.getvalue()
    offsets = pa.py_buffer(np.asarray([0, content.size], np.int64))
    cell = pa.Array.from_buffers(PARCELS.field("parcel").type, 1, [None, offsets, content])
    return pa.Table.from_arrays([cell], schema=PARCELS)


def unpack(parcels: pa.Table) -> pa.Table:
    """Return the rows of all parcels, at least one and of one schema; any other table as it is."""
    if parcels.schema.names != PARCELS.names:
        return parcels
    cells = [cell for chunk in parcels["parcel"].chunks for cell in chunk]
    return pa.concat_tables([pa.ipc.open_stream(cell.as_buffer()).read_all() for cell in cells])
