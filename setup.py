from setuptools import find_packages, setup

# properties/ stands at the top of the repository and is shipped inside the package.
setup(
    packages=[*find_packages(include=["recbole_sid*"]), "recbole_sid.properties"],
    package_dir={"recbole_sid.properties": "properties"},
    package_data={
        "recbole_sid.properties": ["*.yaml", "*/*.yaml", "*/*/*.yaml"],
        "recbole_sid.pages": ["static/*", "templates/*"],
        "recbole_sid.serving.server": ["static/*"],
    },
)
