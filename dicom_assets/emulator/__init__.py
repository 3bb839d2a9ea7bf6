"""The embedded DICOM service: it stores DICOM (STOW-RS) and serves a change feed, by the rules of the real service."""
