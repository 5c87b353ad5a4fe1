"""A sweep: models x recipes x targets x seeds of one study file, each cell built once, wherever and however often.

`study` reads the file, `cells` makes the product with a key for each, `folder` and `lease` are what stands on disk,
`process` builds one cell, `engines` start such processes, `drive` is the loop, `results` and `best` read what came out.
"""
