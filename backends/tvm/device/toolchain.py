"""What this machine needs to build and prove for a device profile, checked before an image is read.

Every refusal names the Debian package or the pip requirement that is missing. The versions of TVM are read from the
installed packages' metadata: importing a pair that does not fit can end the process instead of raising.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from types import MappingProxyType

from isobit.backends.device.processor import features, processor, read_cpuinfo, this_machine
from isobit.backends.tvm.device.runtime_libs import runtime_files
from isobit.backends.tvm.profiles import AARCH64, EMULATOR_PACKAGE, PROFILES, X86_64, DeviceProfile
from isobit.pipeline.errors import TargetError

# The extra `tvm` of pyproject.toml says the same, and `packaging` beside; a test compares the two.
REQUIREMENTS: Mapping[str, str] = {"apache-tvm": ">=0.26,<0.28", "apache-tvm-ffi": ">=0.1.14.post0,<0.1.15"}
# Before the requirements: the interfaces that are used, and what other pairs were seen to do.
_WHY = (
    "the tensor IR changes with every minor release, and apache-tvm 0.25-0.27 with another apache-tvm-ffi fails at "
    "import or crashes"
)
NATIVE_COMPILER, NATIVE_PACKAGE = "g++", "g++"
TOOLS = MappingProxyType({
    "C++ compiler": (NATIVE_COMPILER,),
    "AArch64 C++ compiler": (AARCH64.cross_compiler,),
    "AArch64 emulator": (AARCH64.emulator, f"{AARCH64.emulator}-static"),
    "x86-64 emulator": (X86_64.emulator, f"{X86_64.emulator}-static"),
})


def check(profile: DeviceProfile) -> None:
    """Everything that a build for `profile` needs of this machine; fetches another machine's runtime libraries once.

    Raises:
        TargetError: what is missing, and the package that has it.
    """
    check_tools(profile)
    runtime_files(profile.machine)


def check_tools(profile: DeviceProfile) -> None:
    """The part of `check` that looks at this machine only; raises TargetError."""
    check_packages()
    compiler(profile)
    emulation(profile)


def check_packages() -> None:
    """TVM and its interface package are installed, in versions that work together; imports neither."""
    wrong = []
    for name, wanted in REQUIREMENTS.items():
        try:
            installed = metadata.version(name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{name} is not installed")
            continue
        if not _allows(wanted, installed):
            wrong.append(f"{name} {installed} is installed")
    if wrong:
        pins = [name + wanted for name, wanted in REQUIREMENTS.items()]
        raise TargetError(
            f"target 'tvm' cannot be built with the TVM packages of this environment: {', '.join(wrong)}",
            allowed=f"{', '.join(pins)} ({_WHY})", hint="pip install " + " ".join(f"'{pin}'" for pin in pins),
            field="target",
        )


def _allows(wanted: str, installed: str) -> bool:
    try:
        from packaging.specifiers import SpecifierSet
    except ImportError as error:
        raise TargetError(
            "target 'tvm' compares versions with the package 'packaging', which is not installed",
            hint="pip install 'isobit[tvm]'", field="target",
        ) from error
    return SpecifierSet(wanted).contains(installed, prereleases=True)


def compiler(profile: DeviceProfile) -> str:
    """Path of the C++ compiler that links for the profile's machine.

    Raises:
        TargetError: it is not installed.
    """
    native = profile.machine.name == this_machine()
    command = NATIVE_COMPILER if native else profile.machine.cross_compiler
    return _tool(profile, command, NATIVE_PACKAGE if native else profile.machine.cross_package, "links the module")


def emulation(profile: DeviceProfile) -> tuple[str, ...]:
    """What stands before a command line that runs the profile's programs here; empty where they run natively.

    Raises:
        TargetError: this processor cannot run them, and no emulator is installed or no emulator can.
    """
    native = profile.machine.name == this_machine()
    cpuinfo = read_cpuinfo()
    lacking = [name for name in profile.features if name not in features(cpuinfo)]
    if native and not lacking:
        return ()
    if profile.emulated is None:
        raise TargetError(
            f"a module for '{profile.name}' cannot be proven here: this processor ({processor(cpuinfo)}) lacks "
            f"{', '.join(lacking)}, and there is no emulator for processors that have them",
            field="options.profile", hint=_instead_of(profile),
        )
    command = _tool(profile, profile.machine.emulator, EMULATOR_PACKAGE, "runs the module for its proof")
    if native:
        return (command, "-cpu", profile.emulated)
    libraries = Path(profile.machine.libraries)
    if not libraries.is_dir():
        raise _missing(profile, str(libraries), profile.machine.cross_package, "holds the C library for the proof")
    return (command, "-cpu", profile.emulated, "-L", str(libraries))


def _instead_of(profile: DeviceProfile) -> str:
    """What to do where a profile's modules run neither on this processor nor under an emulator."""
    build = "Build on a machine whose processor has them"
    others = (other.name for other in PROFILES.values() if other.machine == profile.machine and other.emulated
              and {*other.features} < {*profile.features})
    other = next(others, None)
    return f"{build}." if other is None else \
        f"{build}, or take `options.profile={other}`: its modules run on the same devices, more slowly."


def _tool(profile: DeviceProfile, command: str, package: str, purpose: str) -> str:
    found = shutil.which(command)
    if found is None:
        raise _missing(profile, command, package, purpose)
    return found


def _missing(profile: DeviceProfile, what: str, package: str, purpose: str) -> TargetError:
    return TargetError(
        f"device profile '{profile.name}' needs {what}, which {purpose}, and it is not installed",
        field="options.profile", hint=f"On Debian and Ubuntu: apt install {package}",
    )
