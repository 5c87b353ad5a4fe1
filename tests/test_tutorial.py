"""docs/tutorial.md is a notebook: its cells run in order, and print what the text says."""

import re
import sys
from pathlib import Path

import pytest

jupytext = pytest.importorskip("jupytext", reason="the extra `docs` is not installed")
nbclient = pytest.importorskip("nbclient", reason="the extra `docs` is not installed")
pytest.importorskip("ipykernel", reason="the extra `docs` is not installed")
pytest.importorskip("sklearn", reason="the tutorial trains on scikit-learn's digits")
ROOT = Path(__file__).parents[1]
TUTORIAL = ROOT / "docs" / "tutorial.md"
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@pytest.mark.slow
@pytest.mark.onnxruntime
@pytest.mark.filterwarnings("ignore")  # those of the kernel's own packages
def test_the_notebook_runs_and_prints_what_its_text_says(tmp_path, monkeypatch):
    for name in ("tools", "compile.py"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    notebook = jupytext.read(TUTORIAL)
    nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    printed = [_COLOURS.sub("", "".join(out.get("text", "") for out in cell.outputs)) for cell in cells]
    everything = "\n".join(printed)
    assert "Traceback" not in everything and "error:" not in everything, everything
    shown = re.findall(r"^```text\n(.*?)\n```", TUTORIAL.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert shown and all(text in everything for text in shown)
    assert "dry run: nothing was written" in printed[1] and "ACCURACY" in printed[2]
    assert printed[3].startswith("parity ok") and "\naccuracy " in printed[3]
    assert len(printed[4].splitlines()) == 5 and all("weight" in line for line in printed[4].splitlines())
    assert printed[5].rstrip().endswith("PASS")
    assert printed[6].count("PARITY PASSED") == 1 and "wrote build/tutorial/compare.html" in printed[6]
    sizes = [int(size.replace(",", "")) for size in re.findall(r"([\d,]+) bytes", printed[7])]
    assert len(sizes) == 2 and sizes[1] < sizes[0]
