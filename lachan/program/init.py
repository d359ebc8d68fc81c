"""``lachan init``: make an installation — pepper, schema, authorities, keys, the first administrator.

Steps: the data folder (0700), the pepper, the schema, then each room's ``INIT`` function in the order of the rooms, then
the first person and their sign-in link, then the mark ``initialised``. Keys that must leave the machine (the root of the
certificate hierarchy, TUF root and targets) are written to another folder, ``--offline``. If anything fails, what was made
is removed again. Limits: a database server is not emptied by that.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lachan import cliutil
from lachan.errors import Conflict
from lachan.identity import Role, people, system
from lachan.identity.secrets import make_pepper
from lachan.runtime import Runtime
from lachan.settings import Settings

if TYPE_CHECKING:
    pass


class AlreadyInitialised(Conflict):
    """The folder holds an installation, or something else."""

    title, hint = "Folder in use", "Choose an empty folder; an installation is never overwritten."


def initialise(settings: Settings, *, offline: Path, admin: str) -> str:
    """Make the installation; returns the first administrator's sign-in URL.

    Raises:
        AlreadyInitialised: the data folder or the offline folder is not empty.
    """
    for folder in (settings.data, offline):
        if folder.exists() and any(folder.iterdir()):
            raise AlreadyInitialised(f"{folder} is not empty.")
    try:
        return _make(settings, offline, admin)
    except BaseException:
        for folder in (settings.data, offline):
            shutil.rmtree(folder, ignore_errors=True)
        raise


def _make(settings: Settings, offline: Path, admin: str) -> str:
    from lachan import wiring
    from lachan.program import migrate
    from lachan.signer.context import InitContext
    from lachan.signer.keystore import open_keys

    for folder in (settings.data, offline, settings.data / "run"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder.chmod(0o700)
    make_pepper(settings.data)
    rt = Runtime.open(settings)
    try:
        migrate.upgrade(rt.db)
        context = InitContext(settings, rt.db, open_keys(settings.signer_home, create=True), offline)
        for name in rt.wiring.init:
            wiring.resolve(name)(context)
        actor = system("init")
        with rt.db.write() as connection:
            people.add(connection, name=admin, roles=[Role.ADMIN], actor=actor)
            token = people.make_link(connection, settings.data, name=admin, actor=actor)
        (settings.data / "initialised").touch(mode=0o600)
        return people.link_url(settings, token)
    finally:
        rt.close()


def main(argv: list[str], *, command: str = "init") -> int:
    """``lachan init --data DIR [--offline DIR] [--admin NAME]``; also ``lachan pki init``, the same ceremony."""
    parser = cliutil.parser(command, "Make an installation: authority, signer, ledger, first administrator.")
    parser.add_argument("--offline", metavar="DIR", help="folder for the keys that leave the machine (DATA-offline)")
    parser.add_argument("--admin", default="admin", metavar="NAME", help="the first administrator's name")
    args = parser.parse_args(argv)
    settings = Settings.load(args.data)
    offline = Path(args.offline or f"{settings.data}-offline").absolute()
    link = initialise(settings, offline=offline, admin=args.admin)
    result: dict[str, Any] = {"data": str(settings.data), "offline": str(offline), "admin": args.admin, "link": link}
    text = (
        f"Made {settings.data}.\n"
        f"The keys in {offline} sign the hierarchy itself: move that folder to a medium that leaves this machine now.\n"
        f"Start:    python3 -m lachan serve --data {settings.data}\n"
        f"Sign in:  {link}\n          (once, within 15 minutes; a new one: python3 -m lachan user link {args.admin})"
    )
    cliutil.show(result, as_json=args.json, text=text)
    return cliutil.OK
