"""Finding and reading: names, files that extend a shipped recipe, and what is no recipe is one RecipeError."""

import time

import pytest

from isobit.pipeline.errors import RecipeError
from isobit.pipeline.recipe.family import recipes_folder
from isobit.pipeline.recipe.file import load_recipe


@pytest.mark.parametrize("spelling", ["qdrop_w4a8", "QDROP_W4A8", "qdrop_a8w4", "QDrop_A8w4"])
def test_a_name_takes_any_case_and_order_of_bits(spelling):
    assert load_recipe(spelling).name == "qdrop_w4a8"


def test_a_path_is_loaded(write):
    recipe = load_recipe(str(write()))
    assert recipe.name == "own"
    assert recipe.overrides == () and recipe.passes == ()
    assert recipe.method.parameters == {"steps": 100, "keep_prob": 0.5}


def test_an_unknown_name_lists_the_families_and_the_nearest_recipe():
    with pytest.raises(RecipeError) as caught:
        load_recipe("qdorp_w4a4")
    assert "{adaround,adaround-finish,brecq," in caught.value.allowed
    assert caught.value.allowed.endswith("the bits, as adaround_w4a8; or the path of a YAML file")
    assert caught.value.hint == "Did you mean 'qdrop_w4a4'?"


@pytest.mark.parametrize(("typed", "meant"), [
    ("qdrop-w4a4", "qdrop_w4a4"), ("qdorp", "qdrop"), ("zero_w5a5", "zeroq_w5a5"),
])
def test_what_looks_like_a_name_is_answered_with_the_nearest(typed, meant):
    with pytest.raises(RecipeError, match=f"there is no recipe '{typed}'") as caught:
        load_recipe(typed)
    assert caught.value.hint == f"Did you mean '{meant}'?"


@pytest.mark.parametrize("name", ["qdrop", "QDrop"])
def test_a_family_is_no_recipe_and_the_answer_names_its_bits(name):
    with pytest.raises(RecipeError, match="'qdrop' is a family of recipes and says no bits") as caught:
        load_recipe(name)
    assert caught.value.allowed == "qdrop_w2a2 to qdrop_w8a8, each of the two by itself"
    assert "qdrop_w4a8" in caught.value.hint


@pytest.mark.parametrize("name", ["qdrop_w1a4", "qdrop_w4a9", "qdrop_w4a44", f"qdrop_w{'9' * 5000}a4", "qdrop_w04a4"])
def test_bits_that_no_recipe_has_are_refused(name):
    with pytest.raises(RecipeError, match="there is no recipe '.*bits are 2 to 8") as caught:
        load_recipe(name)
    assert caught.value.allowed == "qdrop_w2a2 to qdrop_w8a8, each of the two by itself"
    assert name != "qdrop_w4a44" or caught.value.hint == "Did you mean 'qdrop_w4a4'?"


@pytest.mark.parametrize(("name", "why"), [
    ("dmbq_w5a4", "levels: multibit has at most 4 bits, not 5"),
    ("dmbq_w4a8", "levels: nested has at most 4 bits, not 8"),
])
def test_bits_that_a_family_lacks_are_refused_with_the_reason(name, why):
    with pytest.raises(RecipeError, match=f"there is no recipe '{name}': {why}") as caught:
        load_recipe(name)
    assert caught.value.allowed == "dmbq_w2a2 to dmbq_w4a4, each of the two by itself"


def test_names_are_found_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_recipe("qdrop_w4a4").name == "qdrop_w4a4"


# --- files that extend a shipped recipe ---


@pytest.fixture
def extending(tmp_path):
    """Loads a file of these lines."""

    def load(lines, edits=()):
        path = tmp_path / "own.yaml"
        path.write_text(lines)
        return load_recipe(path, edits)

    return load


def test_a_file_that_extends_states_its_name_and_what_differs(extending):
    own = extending("name: own\nextends: QDrop_a4w4\nmethod: {steps: 500}\n")
    assert own == load_recipe("qdrop_w4a4", ["method.steps=500", "name=own"])
    plain = extending("name: own\nextends: qdrop_w4a4\n", ["seed=7"])
    assert plain == load_recipe("qdrop_w4a4", ["seed=7", "name=own"])


@pytest.mark.parametrize("extends", ["qdrop", "qdrop_w4a4"])
def test_bits_of_the_file_choose_what_the_family_says_at_them(extending, extends):
    own = extending(f"name: own\nextends: {extends}\nweights: {{bits: 8}}\nactivations: {{bits: 8}}\n")
    assert own == load_recipe("qdrop_w8a8", ["name=own"])


def test_a_line_of_the_file_stands_above_everything_that_it_extends(extending):
    assert extending("name: own\nextends: qdrop_w8a8\npolicy: captq\n").policy == "captq"


def test_a_file_has_changes_at_bits_of_its_own(extending):
    lines = "name: own\nextends: qdrop_{}\nat: {{w3: {{seed: 3}}, w4a4: {{seed: 4}}}}\n"
    assert [extending(lines.format(bits)).seed for bits in ("w3a8", "w4a4", "w4a3")] == [3, 4, 1005]


@pytest.mark.parametrize(("lines", "what", "said"), [
    ("extends: qdrop_w4a4\n", "the key 'name' is missing", ""),
    ("name: own\nextends: qdrop\n", "'qdrop' is a family of recipes and says no bits", "qdrop_w2a2 to qdrop_w8a8"),
    ("name: own\nextends: qdorp_w4a4\n", "there is no recipe 'qdorp_w4a4'", "Did you mean 'qdrop_w4a4'"),
    ("name: own\nextends: [qdrop]\n", "'extends' is no name of a recipe", "qdrop_w4a4"),
    ("name: own\nextends: null\n", "'extends' is no name of a recipe", "qdrop_w4a4"),
    ("name: own\nextend: qdrop_w4a4\n", "unknown key 'extend'", "Did you mean 'extends'"),
    ("name: own\nextends: qdrop_w4a4\nwieghts: {bits: 3}\n", "unknown key 'wieghts'", "Did you mean 'weights'"),
    ("name: own\nextends: qdrop_w4a4\nweights: 4\n", "'weights' is 4", "dictionary"),
    ("name: own\nextends: qdrop_w4a4\nweights: {bits: 9}\n", "'weights.bits' is 9", "from 2 to 8"),
    ("name: own\nextends: qdrop_w4a4\nat: {w9: {seed: 3}}\n", "'at.w9' is no change", "w8a8"),
    ("name: own\nextends: qdrop_w4a4\nat: 5\n", "'at' is no change", "w8a8"),
])
def test_a_file_that_extends_wrongly_is_told_what_is_allowed(extending, lines, what, said, tmp_path):
    with pytest.raises(RecipeError) as caught:
        extending(lines)
    assert caught.value.what.startswith(what) and str(tmp_path / "own.yaml") in caught.value.where
    assert said in f"{caught.value.allowed} {caught.value.hint}"


def test_keys_of_files_are_no_fields_that_set_changes():
    with pytest.raises(RecipeError, match="unknown key 'at'"):
        load_recipe("qdrop_w4a4", ["at.w4.seed=3"])


# --- files that are no recipes ---


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(RecipeError, match="nothing_here.yaml' does not exist"):
        load_recipe(str(tmp_path / "nothing_here.yaml"))
    with pytest.raises(RecipeError, match="is a folder"):
        load_recipe(tmp_path)
    with pytest.raises(RecipeError, match="does not exist") as caught:
        load_recipe("recipes/qdrop_w4a4.yaml")
    assert caught.value.hint == "A shipped recipe is given by its name: qdrop_w4a4"


def test_the_file_of_a_family_is_no_recipe():
    with pytest.raises(RecipeError, match="'qdrop' is a family of recipes and says no bits"):
        load_recipe(recipes_folder() / "qdrop.yaml")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name: [unclosed", "cannot be read as YAML"),
        (b"\xff\xfe\x00", "cannot be read as YAML"),
        (b"", "holds nothing"),
        (b"- a\n- b\n", "holds a list"),
        (b"seed: 1\nseed: 2\n", "the key 'seed' is given twice"),
        (b"seed: 2024-13-45\n", "cannot be read as YAML"),
        (b"seed:\t1\n\tname: a\n", "cannot be read as YAML"),
        (b"\0\1\2", "cannot be read as YAML"),
        (b"[" * 5000, "nested more than 16 deep"),
        (b"{a: " * 5000, "nested more than 16 deep"),
        (b"- " * 5000, "nested more than 16 deep"),
        (b"? " * 5000, "nested more than 16 deep"),
        (b"a: [1, 2, 3\n" * 5000, "cannot be read as YAML"),
        (b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "aliases"),
        (b"a: &a [*a]\n", "aliases"),
        (b"seed: " + b"9" * 5000, "cannot be read as YAML"),
        (b"seed: " + b"9" * 4000, "'seed' is 9999"),
        (b"seed: -9223372036854775809", "'seed' is -9223372036854775809"),
        (b"images: {count: 0x" + b"f" * 999 + b"}", "'images.count' is"),
        (b"method: {learning_rate: .inf}", "'method.learning_rate' is inf"),
        (b"method: {learning_rate: .nan}", "'method.learning_rate' is nan"),
        (b"method: {learning_rate: 1e999}", "'method.learning_rate' is inf"),
        (b"a: !!int ''", "cannot be read as YAML"),
        (b"a: !!bool maybe", "cannot be read as YAML"),
        (b"a: !!timestamp never", "cannot be read as YAML"),
        (b"a: !!python/object/apply:os.system [true]", "cannot be read as YAML"),
        (b"[a, b]: c\n? [d]\n: e", "cannot be read as YAML"),
        (b"#" * (1 << 18), "longer than 131,072 bytes"),
    ],
)
def test_a_file_that_is_no_recipe_is_refused(tmp_path, content, message):
    path = tmp_path / "bad.yaml"
    path.write_bytes(content)
    start = time.perf_counter()
    with pytest.raises(RecipeError, match=message) as caught:
        load_recipe(path)
    assert caught.value.where == str(path) and len(str(caught.value)) < 3000
    assert time.perf_counter() - start < 5


def test_the_longest_recipe_that_is_read_takes_seconds(tmp_path):
    lines = "".join(f"- {{where: layer{index}.conv, weights: {{bits: 8}}}}\n" for index in range(2500))
    path = tmp_path / "long.yaml"
    path.write_text(load_recipe("minmax_w8a8").to_yaml().replace("overrides: []\n", f"overrides:\n{lines}"))
    start = time.perf_counter()
    assert len(load_recipe(path).overrides) == 2500 and time.perf_counter() - start < 10


def test_a_file_of_any_size_is_not_read(tmp_path):
    path = tmp_path / "large.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(RecipeError, match="longer than"):
        load_recipe(path)


def test_a_long_value_is_cut_in_the_message(write):
    with pytest.raises(RecipeError) as caught:
        load_recipe(write("bits: 4", f"bits: {'x' * 9000}"))
    assert len(caught.value.what) < 200


@pytest.mark.parametrize("key", ["1", "null", "true", "2024-01-01", "1.5", "''", "!!binary aGk="])
@pytest.mark.parametrize("inside", ["{}", "method: {{{}}}", "images: {{{}}}", "weights: {{{}}}"])
def test_keys_that_are_no_text_are_refused(tmp_path, key, inside):
    path = tmp_path / "bad.yaml"
    path.write_text(inside.format(f"{key}: 1"))
    with pytest.raises(RecipeError):
        load_recipe(path)
