"""The rooms at the top of the checkout are packages below `isobit`; all else about the project is in pyproject.toml.

`pipeline/` becomes `isobit.pipeline` and so on, so that nothing but `isobit` stands at the top of site-packages.
"""

import sys
from pathlib import Path

from setuptools import find_packages, setup

sys.path.insert(0, str(Path(__file__).resolve().parent))  # a build does not put this folder on the path by itself
from isobit import ROOMS

found = find_packages(include=[name for room in ROOMS for name in (room, f"{room}.*")])
setup(
    packages=[*find_packages(include=["isobit", "isobit.*"]), *(f"isobit.{name}" for name in found), "isobit.recipes"],
    package_dir={f"isobit.{room}": room for room in (*ROOMS, "recipes")},
    package_data={
        "isobit": ["py.typed"],
        "isobit.pages": ["templates/*"],
        "isobit.recipes": ["*.yaml"],
        "isobit.backends.c": ["kernels/*.c", "templates/*.j2", "device/*", "device/*/*"],
        "isobit.backends.tvm": ["device/*.cc"],
        "isobit.pipeline.artifact": ["*.j2"],
    },
)
