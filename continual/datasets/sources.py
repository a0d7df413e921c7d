"""Names of earlier versions: see `continual.datasets.find`."""

from continual.datasets.find import load_collection as load_collection
from continual.datasets.find import load_data as load_data
from continual.datasets.readers.digits import digits as digits
