"""SageMaker Runtime: InvokeEndpoint, passed on to the serving process of one of the endpoint's variants.

(AWS: InvokeEndpoint of the Amazon SageMaker Runtime; a model's own error comes back as ModelError.)
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import unquote

from starlette.responses import Response

from lib.local.endpoints import Endpoints
from lib.local.hosting import LOG_GROUP, Deployment, Variant
from lib.local.inputs import JobError
from lib.local.protocol import AwsError
from lib.local.store import ACCOUNT_ID, REGION

if TYPE_CHECKING:
    import aiohttp

MAX_BODY_BYTES = 25 * 1024**2
"""The largest payload of a real-time inference request, AWS's quota."""
PATH = re.compile(r"/endpoints/([^/]+)/([^/]+)")

_TIMEOUT_SECONDS = 60.0
_ATTEMPTS = 5  # a lost connection, a dying process that still accepts, a refusal, a start, and one to spare
_MAX_SAID = 1024
_CUSTOM = "x-amzn-sagemaker-custom-attributes"
_PASSED_ON = {
    "content-type": "Content-Type",
    "accept": "Accept",
    _CUSTOM: "X-Amzn-SageMaker-Custom-Attributes",
}
_REFUSED = ("target-model", "target-container-hostname", "inference-component", "session-id")
_TIMED_OUT = (
    "Your invocation timed out while waiting for a response from container primary. Review the latency metrics "
    "for each container in Amazon CloudWatch, resolve the issue, and try again."
)


class Runtime:
    """Answers requests to endpoints.

    Parameters
    ----------
    endpoints : Endpoints
    """

    def __init__(self, endpoints: Endpoints) -> None:
        self._endpoints = endpoints
        self._session: aiohttp.ClientSession | None = None

    async def answer(self, path: str, headers: Mapping[str, str], body: bytes) -> Response:
        """Answer one request.

        Parameters
        ----------
        path : str
            Such as ``/endpoints/NAME/invocations``.
        headers : mapping
            Names in small letters.
        body : bytes
            What the model gets.

        Raises
        ------
        AwsError
            ValidationError, ModelError, or NotImplemented for what the local AWS has not.
        """
        found = PATH.fullmatch(path)
        if not found or found[2] != "invocations":
            raise AwsError("NotImplemented", f"POST {path} is not implemented by the local AWS.", 501)
        for name in _REFUSED:
            if headers.get(f"x-amzn-sagemaker-{name}"):
                raise AwsError("ValidationError", f"The local AWS does not support X-Amzn-SageMaker-{name}.")
        name = unquote(found[1])
        serving = self._endpoints.enter(name)
        try:
            variant = serving.choose(headers.get("x-amzn-sagemaker-target-variant"))
            passed_on = {name: headers[key] for key, name in _PASSED_ON.items() if headers.get(key)}
            status, answered, content = await self._invoke(name, serving, variant, passed_on, body)
        finally:
            serving.leave()
        if status != HTTPStatus.OK:
            raise _model_error(name, status, content)
        kept = {"x-amzn-invoked-production-variant": variant.name}
        if _CUSTOM in answered:
            kept[_CUSTOM] = answered[_CUSTOM]
        return Response(content, headers=kept, media_type=answered.get("content-type"))

    async def close(self) -> None:
        """Close the connections to the serving processes."""
        if self._session:
            await self._session.close()

    async def _invoke(
        self, name: str, serving: Deployment, variant: Variant, headers: Mapping[str, str], body: bytes
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Return the status, headers and body of the model's answer; a process that has died is started again."""
        import aiohttp

        refused: int | None = None
        failure: Exception | None = None
        for _ in range(_ATTEMPTS):
            port = variant.port
            if port is None or port == refused:
                port = await self._start(name, variant, refused)
            try:
                # After a lost connection by a new one: the others that are kept may be dead as well.
                async with self._connections(anew=failure is not None) as session:
                    url = f"http://127.0.0.1:{port}/invocations"
                    async with session.post(url, data=body, headers=headers) as answer:
                        return answer.status, answer.headers, await answer.read()
            except TimeoutError:
                raise _model_error(name, 0, _TIMED_OUT.encode()) from None
            except aiohttp.ClientConnectorError:  # nobody listens there any more
                refused = port
            except aiohttp.ClientError as error:
                failure = error
        said = "The model's process ended during the request"
        raise _model_error(name, 500, said.encode()) from failure

    @asynccontextmanager
    async def _connections(self, anew: bool) -> AsyncIterator[aiohttp.ClientSession]:
        """Lend the connections that are kept, or none of them."""
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=_TIMEOUT_SECONDS)
        if anew:
            async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
                yield session
            return
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, force_close=False)
            self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False)
        yield self._session

    async def _start(self, name: str, variant: Variant, refused: int | None) -> int:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._endpoints.workers, variant.start, refused)
        except JobError as error:
            raise _model_error(name, 503, str(error).encode()) from None


def _model_error(endpoint: str, status: int, content: bytes) -> AwsError:
    said = content[:_MAX_SAID].decode("utf-8", "replace").strip()
    whose = "client" if 400 <= status < 500 else "server"
    group = f"{LOG_GROUP}/{endpoint}"
    text = (
        f'Received {whose} error ({status}) from primary with message "{said}". '
        f"See the log group {group} of the local AWS for more information."
    )
    return AwsError(
        "ModelError",
        text,
        HTTPStatus.FAILED_DEPENDENCY,
        OriginalStatusCode=status,
        OriginalMessage=said,
        LogStreamArn=f"arn:aws:logs:{REGION}:{ACCOUNT_ID}:log-group:{group}",
    )
