"""A program of its own that uses a secret once a file appears; prints the serial number it got, or the refusal's code."""

import sys
import time
from pathlib import Path

from lachan.errors import LachanError
from lachan.runtime import Runtime
from lachan.settings import Settings
from pki import service
from tests.pki.support import csr


def main() -> None:
    data, signer, url, name, secret, start = sys.argv[1:]
    rt = Runtime.open(Settings.load(data, signer_socket=Path(signer), database_url=url))
    request = csr()
    print("ready", flush=True)
    while not Path(start).exists():
        time.sleep(0.001)
    try:
        got = service.enrol(rt, device_name=name, secret=secret, csr_der=request, source="192.0.2.1")
        print(f"{got.certificate.serial_number:x}")
    except LachanError as error:
        print(error.code)
    finally:
        rt.close()


if __name__ == "__main__":
    main()
