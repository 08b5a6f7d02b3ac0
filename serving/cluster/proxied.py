"""The service reached through the API server: no Ingress is needed, and each pod can be asked by itself."""

from dataclasses import dataclass

from urllib3.exceptions import HTTPError

from assay.release.endpoint import IMAGE, Answer, Unreachable
from serving.cluster.api import Api, Document, parsed

PORT = 3000
"""Of a pod."""
PORT_NAME = "http"
"""Of the Service."""


@dataclass(frozen=True)
class Proxied:
    """A pod or a Service behind the API server; see `assay.release.endpoint.Endpoint`."""

    api: Api
    name: str
    path: str

    @classmethod
    def pod(cls, api: Api, namespace: str, name: str) -> "Proxied":
        """One pod."""
        return cls(api, f"pod {name}", f"/api/v1/namespaces/{namespace}/pods/{name}:{PORT}/proxy")

    @classmethod
    def service(cls, api: Api, namespace: str, name: str) -> "Proxied":
        """Any of the ready pods behind a Service."""
        return cls(api, f"service {name}", f"/api/v1/namespaces/{namespace}/services/{name}:{PORT_NAME}/proxy")

    def send(self, method: str, path: str, body: bytes = b"", timeout_s: float = 30.0) -> Answer:
        status, data = self._sent(method, path, body, timeout_s)
        if found := _from_the_cluster(status, data):
            if status in {401, 403}:
                raise Unreachable(str(self.api.refused(method, self.path, status, data)))
            raise Unreachable(f"{self.name} does not answer: {found}")
        return Answer(status, data)

    def _sent(self, method: str, path: str, body: bytes, timeout_s: float) -> tuple[int, bytes]:
        """Sent again once if the connection to the API server broke: that says nothing about the service."""
        for last in (False, True):
            try:
                return self.api.ask(method, self.path + path, body, IMAGE, timeout_s)
            except HTTPError as error:
                if last or "timed out" in str(error):
                    raise Unreachable(f"{self.name} does not answer: {self.api.silent(error)}") from None
        raise AssertionError


def _from_the_cluster(status: int, data: bytes) -> str:
    """What the API server says in place of the service, which speaks JSON of its own; empty if it let it speak."""
    if status < 400:
        return ""
    found: Document = parsed(data)
    if found.get("kind") == "Status" and "apiVersion" in found:
        return " ".join(str(found.get("message", "")).split())[:200]
    return "" if found else " ".join(data[:200].decode(errors="replace").split()) or f"answered {status} without a word"
