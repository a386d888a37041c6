"""Endpoints and endpoint configs: made, updated without a dropped request, taken up after a kill, deleted.

An endpoint's document keeps, beside what DescribeEndpoint answers, the variants that serve it with their
models (``Serving``) and those it is to get (``Wanted``): so it outlives the config and the models it was
made of, and a server that was killed can take up what it was doing.  (AWS: "Real-time inference",
CreateEndpoint, UpdateEndpoint.)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lib.local.algorithm import refuse_unless, unsupported
from lib.local.container import MAX_FAILURE_REASON
from lib.local.hosting import Deployment, Variant
from lib.local.inputs import JobError
from lib.local.logs import Logs
from lib.local.objects import Objects
from lib.local.protocol import AwsError
from lib.local.serving import container_of
from lib.local.store import ACCOUNT_ID, ENDPOINT, ENDPOINT_CONFIG, MODEL, Page, Store

DRAIN_SECONDS = 60.0
"""The longest that the old processes of an updated endpoint wait for their last answers."""

_CHANGES_AT_ONCE = 4
_IN_PROGRESS = ("Creating", "Updating", "RollingBack", "Deleting")
_EVERYTHING = Page(descending=False, limit=None)
_REFUSED_CONFIG = ("AsyncInferenceConfig", "ExplainerConfig", "ShadowProductionVariants")
_REFUSED_VARIANT = ("ServerlessConfig", "ManagedInstanceScaling", "InstancePools")


class Endpoints:
    """The endpoints and endpoint configs of the local SageMaker.

    Parameters
    ----------
    folder : Path
        Where serving processes get their folders.
    store, objects, logs
        The state, S3 and CloudWatch Logs.
    """

    def __init__(self, folder: Path, store: Store, objects: Objects, logs: Logs) -> None:
        self.folder = folder
        self.store = store
        self.objects = objects
        self.logs = logs
        # serving processes are started in its threads, which live as long as they do: see `lib.local.launch`
        self.workers = ThreadPoolExecutor(_CHANGES_AT_ONCE, thread_name_prefix="endpoint")
        self._lock = threading.Lock()
        self._serving: dict[str, Deployment] = {}
        self._starting: dict[str, Deployment] = {}
        self._changes = 0
        self._closing = False

    # ---- endpoint configs

    def create_config(self, params: dict[str, Any]) -> dict[str, Any]:
        """Make an endpoint config: CreateEndpointConfig.

        Raises
        ------
        AwsError
            ValidationException.
        """
        for member in _REFUSED_CONFIG:
            if params.get(member):
                raise unsupported(member)
        refuse_unless(params.get("DataCaptureConfig", {}).get("EnableCapture"), (False,), "data capture:")
        names = [variant["VariantName"] for variant in params["ProductionVariants"]]
        for variant in params["ProductionVariants"]:
            if names.count(variant["VariantName"]) > 1:
                text = f"The variant name {variant['VariantName']} is used more than once."
                raise AwsError("ValidationException", text)
            _check_variant(variant)
            self.store.get(MODEL, variant["ModelName"])
        kept = {name: value for name, value in params.items() if name not in ("EndpointConfigName", "Tags")}
        variants = [
            {"InitialVariantWeight": 1.0, "InitialInstanceCount": 1, **variant}
            for variant in params["ProductionVariants"]
        ]
        document = {"EnableNetworkIsolation": False, **kept, "ProductionVariants": variants}
        name, tags = params["EndpointConfigName"], params.get("Tags")
        document = self.store.create(ENDPOINT_CONFIG, name, document, tags=tags)
        return {"EndpointConfigArn": document["EndpointConfigArn"]}

    # ---- endpoints

    def create(self, params: dict[str, Any]) -> dict[str, Any]:
        """Make an endpoint: CreateEndpoint.  Its processes start in the background.

        Raises
        ------
        AwsError
            ValidationException.
        """
        config = params["EndpointConfigName"]
        wanted = self._variants_of(config)
        document = {
            "EndpointConfigName": config,
            "EndpointStatus": "Creating",
            "Wanted": wanted,
            **({"LastDeploymentConfig": params["DeploymentConfig"]} if "DeploymentConfig" in params else {}),
        }
        name = params["EndpointName"]
        document = self.store.create(ENDPOINT, name, document, tags=params.get("Tags"))
        self._submit(self._deploy, name)
        return {"EndpointArn": document["EndpointArn"]}

    def update(self, params: dict[str, Any]) -> dict[str, Any]:
        """Give an endpoint another config: UpdateEndpoint.

        The old processes answer until the new ones do; where those do not start, the endpoint stays as it
        was.

        Raises
        ------
        AwsError
            ValidationException.
        """
        name, config = params["EndpointName"], params["EndpointConfigName"]
        wanted = self._variants_of(config)
        if params.get("RetainAllVariantProperties"):
            excluded = {
                item["VariantPropertyType"] for item in params.get("ExcludeRetainedVariantProperties", [])
            }
            _retain(self.store.get(ENDPOINT, name).get("Serving", []), wanted, excluded)

        def change(document: dict[str, Any]) -> None:
            _refuse_in_progress(document)
            document |= {
                "EndpointStatus": "Updating",
                "Wanted": wanted,
                "PendingDeploymentSummary": {
                    "EndpointConfigName": config,
                    "StartTime": time.time(),
                    "ProductionVariants": [_summary(item, "Creating") for item in wanted],
                },
            }
            document.pop("FailureReason", None)
            if "DeploymentConfig" in params:
                document["LastDeploymentConfig"] = params["DeploymentConfig"]

        document = self.store.update(ENDPOINT, name, change)
        self._submit(self._deploy, name)
        return {"EndpointArn": document["EndpointArn"]}

    def update_weights(self, params: dict[str, Any]) -> dict[str, Any]:
        """Change the variants' shares of the requests: UpdateEndpointWeightsAndCapacities.

        Raises
        ------
        AwsError
            ValidationException.
        """

        def change(document: dict[str, Any]) -> None:
            _refuse_in_progress(document)
            if document["EndpointStatus"] != "InService":
                text = f'Cannot update endpoint "{document["EndpointArn"]}" in status Failed.'
                raise AwsError("ValidationException", text)
            by_name = {item["Variant"]["VariantName"]: item for item in document["Serving"]}
            for desired in params["DesiredWeightsAndCapacities"]:
                item = by_name.get(desired["VariantName"])
                if item is None:
                    text = (
                        f"Variant {desired['VariantName']} not found for endpoint {params['EndpointName']}."
                    )
                    raise AwsError("ValidationException", text)
                if "ServerlessUpdateConfig" in desired:
                    raise unsupported("ServerlessUpdateConfig")
                item["Weight"] = desired.get("DesiredWeight", item["Weight"])
                item["Count"] = desired.get("DesiredInstanceCount", item["Count"])
            document["ProductionVariants"] = [_summary(item) for item in document["Serving"]]

        with self._lock:
            document = self.store.update(ENDPOINT, params["EndpointName"], change)
            serving = self._serving.get(params["EndpointName"])
            if serving:
                serving.weights = _weights(document["Serving"])
        return {"EndpointArn": document["EndpointArn"]}

    def describe(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return an endpoint's description: DescribeEndpoint."""
        return self.store.get(ENDPOINT, params["EndpointName"])

    def delete(self, params: dict[str, Any]) -> None:
        """Delete an endpoint: DeleteEndpoint.  It is gone as soon as its last request is answered.

        Raises
        ------
        AwsError
            ValidationException while it is being created or updated.
        """

        def change(document: dict[str, Any]) -> None:
            _refuse_in_progress(document)
            document["EndpointStatus"] = "Deleting"

        name = params["EndpointName"]
        self.store.update(ENDPOINT, name, change)
        self._submit(self._remove, name)

    # ---- requests

    def enter(self, name: str) -> Deployment:
        """Return what serves an endpoint now, for one request; the caller must ``leave`` it.

        Raises
        ------
        AwsError
            ValidationError where there is no such endpoint, or it does not serve yet.
        """
        with self._lock:
            serving = self._serving.get(name)
            if serving is None:
                raise AwsError("ValidationError", f"Endpoint {name} of account {ACCOUNT_ID} not found.")
            serving.enter()
            return serving

    # ---- the server's life

    def recover(self) -> None:
        """Take up what an earlier server left; processes start when they are first asked."""
        for document in self.store.select(ENDPOINT, _EVERYTHING)[0]:
            name, status = document["EndpointName"], document["EndpointStatus"]
            if document.get("Serving"):
                self._serving[name] = self._deployment(name, document["Serving"])
            if status == "Deleting":
                self._submit(self._remove, name)
            elif status in _IN_PROGRESS:
                self._submit(self._deploy, name)

    def close(self) -> None:
        """End all processes; the endpoints stay, for the next server to take up."""
        with self._lock:
            self._closing = True
            deployments = [*self._serving.values(), *self._starting.values()]
        for deployment in deployments:
            deployment.kill()
        self.workers.shutdown(wait=True, cancel_futures=True)
        for deployment in deployments:
            deployment.close()

    def busy(self) -> bool:
        """Whether an endpoint is being created, updated or deleted."""
        with self._lock:
            return self._changes > 0

    def _submit(self, change: Callable[[str], None], name: str) -> None:
        """Have a worker make a change to an endpoint."""

        def work() -> None:
            try:
                change(name)
            finally:
                with self._lock:
                    self._changes -= 1

        with self._lock:
            self._changes += 1
        self.workers.submit(work)

    def _deployment(self, name: str, items: list[dict[str, Any]]) -> Deployment:
        variants = [
            Variant(name, item["Variant"], item["Model"], self.folder, self.objects, self.logs)
            for item in items
        ]
        return Deployment(variants, _weights(items))

    def _variants_of(self, config: str) -> list[dict[str, Any]]:
        """Return the variants of a config, each with its model, weight and count."""
        variants = self.store.get(ENDPOINT_CONFIG, config)["ProductionVariants"]
        return [
            {
                "Variant": variant,
                "Model": self.store.get(MODEL, variant["ModelName"]),
                "Weight": variant["InitialVariantWeight"],
                "Count": variant["InitialInstanceCount"],
            }
            for variant in variants
        ]

    def _deploy(self, name: str) -> None:
        """Start what an endpoint wants and let it serve; runs in a worker's thread."""
        failure = None
        try:
            document = self.store.get(ENDPOINT, name)
            deployment = self._deployment(name, document["Wanted"])
            with self._lock:
                if self._closing:
                    return
                self._starting[name] = deployment
            deployment.start()
        except (JobError, AwsError) as error:
            failure = str(error)
        except Exception as error:  # a fault of the server: say so where users look
            failure = f"InternalServerError: {type(error).__name__}: {error}"
        with self._lock:
            if self._closing:  # the endpoint stays as it is on disk, and the next server goes on
                return
        if failure is not None:
            with self._lock:
                self._starting.pop(name, None)
            self.store.settle(ENDPOINT, name, lambda document: _failed(document, failure))
            return
        with self._lock:
            before = self._serving.get(name)
            self._serving[name] = self._starting.pop(name)
        self.store.settle(ENDPOINT, name, _deployed)
        if before:
            before.drain(DRAIN_SECONDS)

    def _remove(self, name: str) -> None:
        """End an endpoint's processes and forget it; runs in a worker's thread."""
        with self._lock:
            serving = self._serving.pop(name, None)
        if serving:
            serving.drain(DRAIN_SECONDS)
        if not self._closing:
            try:
                self.store.delete(ENDPOINT, name)
            except AwsError:  # deleted twice
                return


# ---- descriptions


def _check_variant(variant: dict[str, Any]) -> None:
    for member in _REFUSED_VARIANT:
        if variant.get(member):
            raise unsupported(f"{member} in a production variant")
    for member in ("ModelName", "InstanceType"):
        if not variant.get(member):
            text = f"The production variant {variant['VariantName']} names no {member}."
            raise AwsError("ValidationException", text)


def _refuse_in_progress(document: dict[str, Any]) -> None:
    if document["EndpointStatus"] in _IN_PROGRESS:
        text = f'Cannot update in-progress endpoint "{document["EndpointArn"]}".'
        raise AwsError("ValidationException", text)


def _weights(items: list[dict[str, Any]]) -> dict[str, float]:
    return {item["Variant"]["VariantName"]: item["Weight"] for item in items}


def _retain(serving: list[dict[str, Any]], wanted: list[dict[str, Any]], excluded: set[str]) -> None:
    """Keep the weights and counts that variants of the same name have now."""
    by_name = {item["Variant"]["VariantName"]: item for item in serving}
    for item in wanted:
        now = by_name.get(item["Variant"]["VariantName"])
        for member, kind in (("Weight", "DesiredWeight"), ("Count", "DesiredInstanceCount")):
            if now and kind not in excluded:
                item[member] = now[member]


def _summary(item: dict[str, Any], status: str | None = None) -> dict[str, Any]:
    """Return a variant's ProductionVariantSummary."""
    image = container_of(item["Model"])["Image"]
    summary: dict[str, Any] = {
        "VariantName": item["Variant"]["VariantName"],
        "DeployedImages": [{"SpecifiedImage": image, "ResolvedImage": image, "ResolutionTime": time.time()}],
        "CurrentWeight": item["Weight"],
        "DesiredWeight": item["Weight"],
        "CurrentInstanceCount": item["Count"],
        "DesiredInstanceCount": item["Count"],
    }
    return {**summary, "VariantStatus": [{"Status": status}]} if status else summary


def _deployed(document: dict[str, Any]) -> None:
    """Note in an endpoint's document that it serves what it wanted."""
    document["Serving"] = document.pop("Wanted")
    pending = document.pop("PendingDeploymentSummary", None)
    if pending:
        document["EndpointConfigName"] = pending["EndpointConfigName"]
    document["ProductionVariants"] = [_summary(item) for item in document["Serving"]]
    document["EndpointStatus"] = "InService"


def _failed(document: dict[str, Any], reason: str) -> None:
    """Note in an endpoint's document why it does not serve what it wanted; it serves what it served."""
    document.pop("Wanted", None)
    document.pop("PendingDeploymentSummary", None)
    document["FailureReason"] = reason[:MAX_FAILURE_REASON]
    document["EndpointStatus"] = "InService" if document.get("Serving") else "Failed"
