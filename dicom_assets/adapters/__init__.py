"""What touches the outside: Azure tokens, the DICOM service over HTTP, Delta tables."""
