"""The Docker engine: the image, and containers that are ours alone."""

from __future__ import annotations

import importlib
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.crash_test.errors import CrashTestError

IMAGE = "kifa-crash-test"
BUILD_IMAGE = "kifa-crash-test-build"
DOCKERFILE = "lazyfs/Dockerfile.crash-test"
LABEL = "kifa-crash-test"
_SOURCES = Path(__file__).parents[3]
_LOG_LINES = 15


class Engine:
    """The engine that the environment names; everything it starts carries a label of its own, and ends with `close`."""

    def __init__(self) -> None:
        """Connect.

        Raises:
            CrashTestError: no engine answers, or it does not allow it.
        """
        try:
            docker: Any = importlib.import_module("docker")
        except ImportError:
            raise CrashTestError(
                "--runner docker needs the Python package docker: pip install 'kifa[crash-test]'"
            ) from None
        self._errors: Any = importlib.import_module("docker.errors")
        self._name = f"{os.getpid()}-{secrets.token_hex(4)}"
        try:
            self._client = docker.from_env()
        except self._errors.DockerException as error:
            raise CrashTestError(_why_not(error)) from None
        self._containers: list[Any] = []
        self._remove_orphans()

    def build_image(self, base: str) -> None:
        """Build the image from the sources beside this file, or be content with the one that is there.

        Raises:
            CrashTestError: it cannot be built, or there is neither source nor image.
        """
        if not (_SOURCES / DOCKERFILE).exists():
            try:
                self._client.images.get(IMAGE)
            except self._errors.ImageNotFound:
                raise CrashTestError(
                    f"there is no image {IMAGE}, and it is built from the sources of Kifa only: "
                    f"docker build -t {IMAGE} -f {DOCKERFILE} . in their directory"
                ) from None
            return
        print(f"kifa-crash-test: building the image {IMAGE} on {base}", file=sys.stderr)
        self._build(BUILD_IMAGE, base, "build")
        self._build(IMAGE, base, None)

    def _build(self, tag: str, base: str, stage: str | None) -> None:
        """Build one stage; what had the tag before is removed, so that builds do not pile up."""
        before = self._image_id(tag)
        try:
            self._client.images.build(
                path=str(_SOURCES), dockerfile=DOCKERFILE, tag=tag, target=stage, rm=True, forcerm=True,
                # Packages come through the network of the host; the containers of the test have none.
                network_mode="host", buildargs={"BASE_IMAGE": base},
            )  # fmt: skip
        except self._errors.BuildError as error:
            for line in [str(part.get("stream", "")) for part in error.build_log][-_LOG_LINES:]:
                print(line.rstrip(), file=sys.stderr)
            raise CrashTestError(
                f"the image {tag} cannot be built on {base}: {error.msg}"
            ) from None
        except self._errors.APIError as error:
            raise CrashTestError(
                f"the image {tag} cannot be built on {base}: {error.explanation}"
            ) from None
        if before is not None and before != self._image_id(tag):
            with suppress(self._errors.APIError):  # somebody else uses it
                self._client.images.remove(before)

    def _image_id(self, tag: str) -> str | None:
        try:
            return str(self._client.images.get(tag).id)
        except self._errors.ImageNotFound:
            return None

    def start(
        self,
        command: Sequence[str],
        *,
        binds: Sequence[Path],
        environment: Mapping[str, str] | None = None,
        devices: Sequence[str] = (),
        beside: Any = None,
    ) -> Any:
        """Start a container of the image.

        Args:
            command: instead of the image's own entry point.
            binds: directories of the host, which have the same paths inside.
            devices: of the host.
            beside: another container, whose processes it is to see.

        Raises:
            CrashTestError: the engine refuses it.
        """
        try:
            container = self._client.containers.create(
                IMAGE,
                entrypoint=list(command),
                command=[],
                cap_add=["SYS_ADMIN"],
                devices=[f"{device}:{device}:rwm" for device in devices],
                network_mode="none",
                pid_mode=None if beside is None else f"container:{beside.id}",
                # Where AppArmor is in force, its default profile forbids mounts.
                security_opt=["apparmor=unconfined"],
                volumes=[f"{path}:{path}" for path in binds],
                environment=dict(environment or {}),
                labels={LABEL: self._name},
            )
            self._containers.append(container)
            container.start()
            container.reload()
        except self._errors.APIError as error:
            raise CrashTestError(f"Docker: {error.explanation}") from None
        return container

    def kill(self, container: Any, signal: str = "SIGKILL") -> None:
        """Send a signal to its first process; nothing happens if it has ended."""
        with suppress(self._errors.APIError):
            container.kill(signal)

    def exit_code(self, container: Any) -> int:
        """Wait for its end; return the exit code as the engine has it: 128 + n for signal n, too."""
        return int(container.wait()["StatusCode"])

    def remove(self, container: Any) -> None:
        """Kill it, if it runs, and remove it. Idempotent."""
        with suppress(self._errors.NotFound):
            container.remove(force=True, v=True)
        if container in self._containers:
            self._containers.remove(container)

    def _remove_orphans(self) -> None:
        """Remove what a killed run has left; those of other runs that are alive are not touched."""
        for container in self._client.containers.list(all=True, filters={"label": LABEL}):
            owner = container.labels[LABEL].partition("-")[0]
            if not Path("/proc", owner).exists():
                self.remove(container)

    def close(self) -> None:
        """Remove all containers that were started."""
        for container in list(self._containers):
            self.remove(container)
        self._client.close()


def _why_not(error: Exception) -> str:
    address = os.environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if "PermissionError" in str(error) or "Permission denied" in str(error):
        return f"no permission to use the Docker engine at {address}: run as root, or join the group docker"
    return f"no Docker engine answers at {address}: start one, or put ci/with-docker before the command"
