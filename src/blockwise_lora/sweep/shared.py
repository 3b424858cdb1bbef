"""Trained adapters behind an fsspec address (s3://, gs://, file://), for banks on many machines.

    <address>/<concept>/<hash>.zip

An adapter is one file there, which gets its name once it is whole: none is ever half there.
"""

import io
import logging
import zipfile
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from blockwise_lora.errors import UserError
from blockwise_lora.sweep.packing import Files

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class SharedBank:
    """A place that banks share.

    Attributes:
        address: of a folder; it is made when the first adapter is put there.
    """

    address: str

    def get(self, place: str) -> Files | None:
        """The files of an adapter; None where it is not there, or damaged, of which is warned.

        Args:
            place: of the adapter, such as character/0123456789abcdef.

        Raises:
            UserError: the address cannot be reached.
        """
        try:
            system, path = self._located(place)
            if not system.exists(path):
                return None
            data = system.cat_file(path)
        except Exception as error:  # every system has errors of its own
            raise self._unreachable("read", error) from error
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                # As it was written: nothing grows as it is unpacked.
                if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
                    raise ValueError("compressed, hence not written by this program")
                return {name: archive.read(name) for name in archive.namelist()}
        except (zipfile.BadZipFile, ValueError, EOFError) as error:
            log.warning("%s/%s.zip is damaged (%s) and made anew.", self.address, place, error)
            return None

    def put(self, place: str, files: Files) -> None:
        """Keep the files of an adapter.

        Args:
            place: see `get`.
            files: of the adapter.

        Raises:
            UserError: the address cannot be written to.
        """
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        try:
            system, path = self._located(place)
            part = f"{path}.{uuid4().hex}.part"
            system.makedirs(path.rpartition("/")[0], exist_ok=True)
            system.pipe_file(part, buffer.getvalue())
            system.mv(part, path)
        except Exception as error:
            raise self._unreachable("written to", error) from error

    def _located(self, place: str) -> tuple[Any, str]:
        import fsspec

        return fsspec.core.url_to_fs(f"{self.address.rstrip('/')}/{place}.zip")

    def _unreachable(self, verb: str, error: Exception) -> UserError:
        return UserError(
            f"sweep.shared_bank: {self.address} cannot be {verb} ({error}). Correct the address or "
            "the credentials, or set it to null to keep adapters on this machine alone."
        )
