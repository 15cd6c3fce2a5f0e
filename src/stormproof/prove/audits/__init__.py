"""The audits: one file each, a pure function of the recording with the words for a person."""
