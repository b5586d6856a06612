"The package, described once in settings.ini and read from there."
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup

here = Path(__file__).parent
ini = ConfigParser(delimiters=['='])
ini.read(here / 'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
words = lambda key: cfg[key].split()
status = {'1': '1 - Planning', '2': '2 - Pre-Alpha', '3': '3 - Alpha', '4': '4 - Beta', '5': '5 - Production/Stable'}

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=(here / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    keywords=words('keywords'),
    author=cfg['author'],
    author_email=cfg['author_email'],
    url=cfg['git_url'],
    project_urls={'Documentation': cfg['doc_host'] + cfg['doc_baseurl']},
    license='Apache-2.0',
    license_files=['LICENSE'],
    classifiers=[f"Development Status :: {status[cfg['status']]}", f"Intended Audience :: {cfg['audience']}", 'Intended Audience :: Education',
                 f"Natural Language :: {cfg['language']}", f"Programming Language :: Python :: {cfg['min_python']}"],
    python_requires='>=' + cfg['min_python'],
    packages=[cfg['lib_path']],
    package_data={cfg['lib_path']: words('package_data')},
    include_package_data=False,
    install_requires=words('requirements'),
    extras_require={'dev': words('dev_requirements'), 'interop': words('interop_requirements')},
    entry_points={'console_scripts': words('console_scripts'), 'nbdev': [f"{cfg['lib_name']}={cfg['lib_path']}._modidx:d"]},
    zip_safe=False,
)
