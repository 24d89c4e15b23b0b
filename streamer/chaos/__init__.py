"""``oddsight-stream chaos``: does the service count every frame once while its parts are killed, stopped and cut off?"""
