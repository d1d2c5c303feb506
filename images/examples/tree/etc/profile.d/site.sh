PATH=$PATH:/opt/site/bin
