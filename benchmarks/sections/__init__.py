"""The generated sections of the pages: functions of the folder of records, by what they are about."""
