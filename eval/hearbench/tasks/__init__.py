"""HEAR task folders: reading, checking and fetching them.

folders       finds and reads task folders; description: their JSON and CSV files
audio         clips of a task at a sample rate; resample: makes a missing rate
check         checks every file of a folder
official      the ten tasks of the paper, from official.csv
fetch/        downloads and converts the official archives
"""
