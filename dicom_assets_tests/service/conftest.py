from collections.abc import Iterator

import pytest

from dicom_assets_tests.service.feed_server import FeedServer


@pytest.fixture(scope="module")
def running_server() -> Iterator[FeedServer]:
    with FeedServer().running() as server:
        yield server


@pytest.fixture
def server(running_server) -> FeedServer:
    running_server.reset()
    return running_server
