"""The embedded DICOM service: DICOM in (STOW-RS), change feed out, with the rules of the real one."""
