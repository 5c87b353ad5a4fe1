"""The kinds of grids, one file each; `pipeline.quant.grids` finds them by the name that `levels` of a recipe gives."""
