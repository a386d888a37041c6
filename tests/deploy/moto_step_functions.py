"""A moto server whose Step Functions knows SageMaker's ``.sync`` integrations, and whose tasks call another AWS.

moto interprets the Amazon States Language itself, but of SageMaker it knows the SDK's calls only.  Here a service of
that name is added to its interpreter: it calls the operation, asks its Describe until the job has ended, and fails the
task with the description as its cause, as Step Functions does.

    python moto_step_functions.py PORT ENDPOINT_OF_THE_OTHER_AWS
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import boto3
import moto.stepfunctions.parser.models  # noqa: F401  all users of the factory
from botocore.exceptions import ClientError
from moto.server import main
from moto.stepfunctions.parser.api import HistoryEventType, TaskFailedEventDetails
from moto.stepfunctions.parser.asl.component.common.error_name.custom_error_name import CustomErrorName
from moto.stepfunctions.parser.asl.component.common.error_name.failure_event import (
    FailureEvent,
    FailureEventException,
)
from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name import StatesErrorName
from moto.stepfunctions.parser.asl.component.common.error_name.states_error_name_type import (
    StatesErrorNameType,
)
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service import state_task_service_factory
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.resource import ResourceCondition
from moto.stepfunctions.parser.asl.component.state.exec.state_task.service.state_task_service_callback import (
    StateTaskServiceCallback,
)
from moto.stepfunctions.parser.asl.eval.event.event_detail import EventDetails
from moto.stepfunctions.parser.asl.utils import boto_client
from moto.stepfunctions.parser.asl.utils.encoding import to_json_str

PORT, ENDPOINT = sys.argv[1], sys.argv[2]
os.environ["MOTO_PORT"] = PORT  # where its interpreter finds its own services
ENDED = ("Completed", "Failed", "Stopped")


class SageMakerTask(StateTaskServiceCallback):
    """``arn:aws:states:::sagemaker:OPERATION`` and ``….sync``."""

    def __init__(self) -> None:
        # Without the token's pattern the interpreter has no endpoint to interrupt when a job has ended.
        patterns = {ResourceCondition.Sync, ResourceCondition.WaitForTaskToken}
        super().__init__(supported_integration_patterns=patterns)

    def _get_supported_parameters(self) -> set[str] | None:
        operation = self.resource.api_action[0].upper() + self.resource.api_action[1:]
        model = self._client().meta.service_model
        return set(model.operation_model(operation).input_shape.members)

    def _from_error(self, env: Any, ex: Exception) -> FailureEvent:
        if isinstance(ex, ClientError):
            name = CustomErrorName("SageMaker.AmazonSageMakerException")
            return self._failure(env, name, ex.response["Error"]["Message"])
        return super()._from_error(env=env, ex=ex)

    def _eval_service_task(
        self,
        env: Any,
        resource_runtime_part: Any,
        normalised_parameters: dict[str, Any],
        state_credentials: Any,
    ) -> None:
        answer = getattr(self._client(), self._get_boto_service_action())(**normalised_parameters)
        answer.pop("ResponseMetadata", None)
        env.stack.append(answer)

    def _build_sync_resolver(
        self,
        env: Any,
        resource_runtime_part: Any,
        normalised_parameters: dict[str, Any],
        state_credentials: Any,
    ) -> Any:
        env.stack.pop()
        kind = self.resource.api_action.removeprefix("create")  # such as TrainingJob
        describe = getattr(self._client(), self._get_boto_service_action().replace("create", "describe", 1))

        def resolve() -> dict[str, Any] | None:
            found = describe(**{f"{kind}Name": normalised_parameters[f"{kind}Name"]})
            found.pop("ResponseMetadata", None)
            status = found[f"{kind}Status"]
            if status not in ENDED:
                return None
            plain: dict[str, Any] = json.loads(
                json.dumps(found, default=lambda moment: int(moment.timestamp() * 1000))
            )
            if status != "Completed":
                name = StatesErrorName(typ=StatesErrorNameType.StatesTaskFailed)
                raise FailureEventException(self._failure(env, name, to_json_str(plain)))
            return plain

        return resolve

    def _client(self) -> Any:
        return boto3.client("sagemaker", endpoint_url=ENDPOINT)

    def _failure(self, env: Any, name: Any, cause: str) -> FailureEvent:
        details = TaskFailedEventDetails(
            error=name.error_name,
            cause=cause,
            resource=self._get_sfn_resource(),
            resourceType=self._get_sfn_resource_type(),
        )
        return FailureEvent(
            env=env,
            error_name=name,
            event_type=HistoryEventType.TaskFailed,
            event_details=EventDetails(taskFailedEventDetails=details),
        )


class _Texts:
    """A client of S3 that gets objects as text and puts JSON, as Step Functions does."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def get_object(self, **given: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self._client.get_object(**given)
        return {"Body": answer["Body"].read().decode(), "ContentLength": answer["ContentLength"]}

    def put_object(self, **given: Any) -> Any:
        return self._client.put_object(**{**given, "Body": json.dumps(given["Body"]).encode()})


def install() -> None:
    """Let every module of the interpreter use the service, and the other AWS for S3 and SageMaker."""
    known_service, known_client = (
        state_task_service_factory.state_task_service_for,
        boto_client.boto_client_for,
    )

    def service_for(service_name: str) -> Any:
        return SageMakerTask() if service_name == "sagemaker" else known_service(service_name)

    def client_for(region: str, service: str, state_credentials: Any = None) -> Any:
        if service == "s3":
            return _Texts(boto3.client("s3", endpoint_url=ENDPOINT))
        if service == "sagemaker":
            return boto3.client(service, endpoint_url=ENDPOINT)
        return known_client(region, service, state_credentials)

    for module in list(sys.modules.values()):
        if getattr(module, "state_task_service_for", None) is known_service:
            module.state_task_service_for = service_for  # type: ignore[attr-defined]
        if getattr(module, "boto_client_for", None) is known_client:
            module.boto_client_for = client_for  # type: ignore[attr-defined]


install()
main(["-H", "127.0.0.1", "-p", PORT])
