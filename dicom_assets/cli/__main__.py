"""`python -m dicom_assets.cli`: the command `dicom-assets`, where its script is not on the path."""

from dicom_assets.cli.app import main

main()
