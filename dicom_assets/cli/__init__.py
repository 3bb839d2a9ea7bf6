"""The command `dicom-assets`: one file for each command.

Never holds a rule; it calls the room that does. Begin with `app.py`.
"""
