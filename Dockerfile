# As docs/operations.md describes it. Put a proxy in front, and run the command of
# "Upgrade of the tables" in the new image before you replace the old one.
FROM python:3.13-slim

WORKDIR /app
COPY constraints.txt ./
COPY production/requirements.txt production/
RUN pip install --no-cache-dir -r production/requirements.txt
COPY . .

# For SQLite: files that this user alone may read, in a volume.
RUN useradd --system service && install -d -o service /data
USER service
VOLUME /data
ENV DATABASE_URL=sqlite:////data/users.db

EXPOSE 8000
HEALTHCHECK --timeout=12s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen(\"http://localhost:8000/health\", timeout=10)"]
CMD ["uvicorn", "main:app", "--host", "0.0.0.0", "--port", "8000", "--timeout-graceful-shutdown", "10", "--no-access-log", "--log-config", "docs/logging.json", "--ws", "none"]
