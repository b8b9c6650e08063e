"""Whether this user may open the sound cards."""

from __future__ import annotations

import grp
import os
import pwd
from typing import Final

from detector.doctor.finding import UNAVAILABLE, Finding, ok, problem, skipped, warning
from detector.doctor.roots import Roots

ACCESS: Final = "access"
_GROUP: Final = "audio"


def check_access(roots: Roots, *, is_needed: bool) -> Finding:
    """Look whether this user may open the cards' inputs; ``is_needed``: no sound server does it in their place."""
    inputs = sorted(roots.snd.glob("pcmC*D*c"))
    if not inputs:
        return skipped(ACCESS, f"there is no input in {roots.snd}; sound can come from a sound server all the same")
    user = _user()
    closed = [path for path in inputs if not os.access(path, os.R_OK | os.W_OK)]
    if not closed:
        return ok(ACCESS, f"{user} may open {', '.join(path.name for path in inputs)}{_by_group()}")
    found = f"{user} may not open {', '.join(str(path) for path in closed)}"
    if not is_needed:
        return warning(ACCESS, f"{found}; a sound server does", _group_advice(user))
    return problem(ACCESS, found, _group_advice(user), UNAVAILABLE)


def _group_advice(user: str) -> str:
    try:
        group = grp.getgrnam(_GROUP)
    except KeyError:
        return f"add {user} to the group that owns the devices in /dev/snd, then log in anew"
    if group.gr_gid in os.getgroups():
        return f"the group {_GROUP} does not suffice here: look at the owners and modes with ls -l /dev/snd"
    if user in group.gr_mem:
        return f"{user} is in the group {_GROUP}, but was not yet at this login: log in anew"
    return f"sudo usermod -aG {_GROUP} {user}, then log in anew; in a container: --group-add {group.gr_gid}"


def _by_group() -> str:
    """Say by what; root, and whoever sits at the machine, may without the group."""
    try:
        return f", by the group {_GROUP}" if grp.getgrnam(_GROUP).gr_gid in os.getgroups() else ""
    except KeyError:
        return ""


def _user() -> str:
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user {os.geteuid()}"
