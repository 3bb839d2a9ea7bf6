"""HTTP requests to token services: each request is sent once, and an answer with a transient failure becomes an error.

This is done below the credentials, because only there an answer's status and headers are visible, whatever the
credential makes of them. It raises an error, because the library below azure-identity caches answers for 5 to 3,600
seconds, and would give the cached answer to every retry. `Tokens` retries, so azure-identity must not.
"""

from typing import Any

from azure.core.exceptions import HttpResponseError, ServiceRequestError, ServiceResponseError
from azure.core.pipeline.transport import RequestsTransport

from dicom_assets.identity.token_failures import note_answer, note_silence

CONNECT_SECONDS = 5
ANSWER_SECONDS = 20
"""Read timeout; a sensor's tick has time for two of them."""


class TokenTransport(RequestsTransport):  # type: ignore[misc] # azure-core exports it without a type
    """Transport of a credential's requests."""

    def __init__(self) -> None:
        super().__init__(connection_timeout=CONNECT_SECONDS, read_timeout=ANSWER_SECONDS)

    def send(self, request: Any, **options: Any) -> Any:
        """Send the request and return the answer.

        Raises:
            azure.core.exceptions.AzureError: there was no answer, or the answer is a transient failure.
        """
        try:
            response = super().send(request, **options)
        except (ServiceRequestError, ServiceResponseError) as error:
            note_silence(error)
            raise
        if (transient := note_answer(request.url, response.status_code, response.text(), response.headers)) is not None:
            raise HttpResponseError(str(transient), response=response)
        return response


def build_options() -> dict[str, Any]:
    """Return the arguments that make a credential of azure-identity use this transport, without retries of its own."""
    return {"transport": TokenTransport(), "retry_total": 0}
