from dicom_assets_tests.service.conftest import running_server, server

__all__ = ["running_server", "server"]
