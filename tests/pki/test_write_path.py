"""While an enrolment waits for the signer it holds nothing that another writer waits for (ADR 0021)."""

import socket
import threading
import time
from dataclasses import replace

from lachan import trust
from lachan.runtime import Runtime
from lachan.signer.client import SignerClient
from lachan.signer.errors import SignerUnavailable
from lachan.work import outbox
from tests.pki.support import camera, csr

PATIENCE = 1.5  # seconds that the enrolment waits for the signer here
SHORT = 0.25  # seconds that another writer may wait meanwhile


def test_an_enrolment_that_waits_for_the_signer_holds_up_nobody(signer_rt: Runtime) -> None:
    seen = camera(signer_rt, "cam-x")
    path = signer_rt.settings.signer_home.parent / "mute"
    with socket.socket(socket.AF_UNIX) as mute:  # takes connections, and never answers
        mute.bind(str(path))
        mute.listen(5)
        silent = replace(signer_rt, settings=signer_rt.settings.model_copy(update={"signer_socket": path}))
        silent.__dict__["signer"] = SignerClient(path, timeout=PATIENCE)
        ended: list[BaseException] = []

        def enrol() -> None:
            try:
                seen.enrol(silent, csr())
            except SignerUnavailable as error:
                ended.append(error)

        waiting = threading.Thread(target=enrol)
        waiting.start()
        taken, _ = mute.accept()
        taken.recv(1)  # the request has left
        waits = []
        while waiting.is_alive() and len(waits) < 50:
            began = time.monotonic()
            signer_rt.db.run(trust.touch, urgent=True)
            waits.append(time.monotonic() - began)
        waiting.join(2 * PATIENCE)
        silent.signer.close()
        taken.close()
    assert ended, "the enrolment was refused for want of a signer"
    assert len(waits) > 3
    assert max(waits) < SHORT
    with signer_rt.db.read() as connection:
        assert not outbox.read(connection, names=("CertificateIssued",), device_id=seen.id)
    assert seen.enrol(signer_rt, csr()), "nothing was used up"
