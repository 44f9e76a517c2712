from recbole_sid.api import analyze as analyze
from recbole_sid.api import compare as compare
from recbole_sid.api import reproduce as reproduce
from recbole_sid.api import tokenize as tokenize
from recbole_sid.api import tune as tune

__version__: str
